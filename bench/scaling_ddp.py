"""The time that the runner adds to a step under DDP: ``LowModeModel`` and the same graph called directly, over gloo."""

from __future__ import annotations

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from bench.harness import paired_ratio, paired_times, summary
from bench.networks import resnet
from lowmode_fx import BernoulliSchedule, LowModeModel, Mode, build_pair

SIDE, BATCH = 32, 32


def overhead_of_runner(ranks: int, rounds: int, side: int = SIDE, batch: int = BATCH) -> dict[str, Any]:
    """Low steps of ResNet-18 (CIFAR stem), uncompiled, on ``ranks`` processes that share the cores; rank 0's times."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (ranks, rounds, side, batch, folder), nprocs=ranks)
        row: dict[str, Any] = json.loads((Path(folder) / "row.json").read_text())
    return row


def _rank(rank: int, ranks: int, rounds: int, side: int, batch: int, folder: str) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine, whose name may not resolve
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    images, targets = torch.randn(batch, 3, side, side), torch.randint(0, 10, (batch,))
    functions = {name: partial(_step, *_make(name, images), images, targets) for name in ("net", "graph")}
    times = paired_times(functions, torch.device("cpu"), rounds)
    ratio = paired_ratio(times["net"], times["graph"])
    if rank == 0:
        row = {
            "ranks": ranks,
            "threads a rank": torch.get_num_threads(),
            "side": side,
            "batch a rank": batch,
            "net / graph": ratio,
            "lost to the runner": ratio["median"] - 1,
            "graph seconds": summary(times["graph"]),
        }
        (Path(folder) / "row.json").write_text(json.dumps(row))
    dist.barrier()
    dist.destroy_process_group()


def _make(name: str, images: torch.Tensor) -> tuple[DistributedDataParallel, torch.optim.Optimizer]:
    """A network of its own in DDP (two over the same parameters would reduce each gradient twice), and its SGD."""
    torch.manual_seed(0)
    pair = build_pair(resnet(18, "cifar", 10), images[:2])
    net = LowModeModel(pair, BernoulliSchedule(p=1.0), compile=False).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    if name == "net":
        net.attach(optimizer)
    else:
        # The module that DDP wraps, without schedule and choice; a plain assignment would set it on the model.
        vars(net)["forward"] = net._runner.networks[Mode.LOW]
    return DistributedDataParallel(net), optimizer


def _step(
    net: DistributedDataParallel, optimizer: torch.optim.Optimizer, images: torch.Tensor, targets: torch.Tensor
) -> None:
    F.cross_entropy(net(images), targets).backward()
    optimizer.step()
    optimizer.zero_grad()
