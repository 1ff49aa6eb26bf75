"""How cost grows: building a pair with the size of a network, a step with image side and batch, the runner under DDP.

python -m bench.scaling --small      # two CPU cores: up to 84 million parameters, sides to 128
python -m bench.scaling              # up to 281 million parameters, sides to 512

Three parts, each a question. ``build``: seconds and memory of ``build_pair`` over RegNets of 1 to 281 million
parameters. ``step``: time of a low step of ResNet-18 over a full one, by image side and batch, compiled on a GPU.
``ddp``: the time that the runner adds to a step in DDP, compared with the bare graph, over 1, 2 and 4 gloo processes.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch

from bench.harness import RESULTS, header, load_rows, paired_ratio, save, summary
from bench.networks import resnet
from bench.scaling_ddp import overhead_of_runner
from bench.scaling_report import report
from bench.training_step import mode_times
from bench.zoo.measure import measure_build
from lowmode_fx import BernoulliSchedule, LowModeModel, build_pair, count_step_flops

#: timm's names with changes: the smallest RegNetY made smaller still.
FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "regnety_002, narrow": ("regnety_002", {"w0": 16, "wa": 18.0}),
    **{name: (name, {}) for name in ("regnety_002", "regnety_004", "regnety_008", "regnety_016", "regnety_032")},
    **{name: (name, {}) for name in ("regnety_064", "regnety_160", "regnety_320", "regnety_640")},
}
SMALL_FAMILY = list(FAMILY)[:-2]
SIDES, BATCHES, SIDE, BATCH = (32, 64, 128, 256, 512), (8, 32, 128, 512), 64, 32
SMALL_SIDES, SMALL_BATCHES, SMALL_BATCH = (32, 64, 128), (4, 16, 64), 16
RANKS = (1, 2, 4)


def build_costs(name: str, repeats: int) -> dict[str, Any]:
    """Size of a network and the cost of its pair: seconds (with the front end's share), and peak memory."""
    variant, changes = FAMILY[name]
    model = timm.create_model(variant, **changes)
    pair = build_pair(model, torch.empty(2, 3, 224, 224))  # warm-up; the sizes are read from it
    measured = [measure_build(pair, torch.empty(2, 3, 224, 224)) for _ in range(repeats)]
    front, whole, memory = (list(values) for values in zip(*measured, strict=True))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "nodes": len(pair.full.graph.nodes),
        "low nodes": len(pair.low.graph.nodes),
        "front end seconds": summary(front),
        "build seconds": summary(whole),
        "build MB": summary(memory),
    }


def step_costs(side: int, batch: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """The time of a low step of ResNet-18 (ImageNet stem) divided by a full step's, at one side and batch."""
    gpu = device.type == "cuda"
    torch.manual_seed(0)
    model = resnet(18, "imagenet", 1000).to(device).train()
    images = torch.randn(batch, 3, side, side, device=device)
    targets = torch.randint(0, 1000, (batch,), device=device)
    if gpu:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    pair = build_pair(model, images[:2])
    net = LowModeModel(pair, BernoulliSchedule(0.5), compile=gpu)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    times = mode_times(net, lambda: (images, targets), optimizer, rounds, torch.bfloat16 if gpu else None)
    full, low = count_step_flops(pair)
    return {
        "side": side,
        "batch": batch,
        "compiled": gpu,
        "mac_ratio": low / full,
        "low / full": paired_ratio(times["low"], times["full"]),
        "full seconds": summary(times["full"]),
        "low seconds": summary(times["low"]),
    }


def parts(small: bool, device: torch.device, rounds: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """(key, measurement) of all three parts, the cheapest first."""
    for name in SMALL_FAMILY if small else FAMILY:
        yield f"build / {name}", partial(build_costs, name, 3)
    batch = SMALL_BATCH if small else BATCH
    points = [(side, batch) for side in (SMALL_SIDES if small else SIDES)]
    points += [(SIDE, each) for each in (SMALL_BATCHES if small else BATCHES)]
    for side, each in dict.fromkeys(points):
        yield f"step / {side} / {each}", partial(step_costs, side, each, device, rounds)
    for ranks in RANKS:
        yield f"ddp / {ranks}", partial(overhead_of_runner, ranks, rounds)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="smaller networks and images")
    parser.add_argument("--parts", nargs="*", choices=("build", "step", "ddp"), default=("build", "step", "ddp"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no measurement after this many")
    parser.add_argument("--resume", action="store_true", help="keep the rows in the result file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    device, began = torch.device("cuda" if torch.cuda.is_available() else "cpu"), time.monotonic()
    torch.backends.cudnn.benchmark = True  # as in training loops with images of one size
    path = options.out or RESULTS / f"scaling_{device.type}.json"
    head, rows = header("scaling", small=options.small, rounds=options.rounds), load_rows(path, options.resume)
    failed = False
    for key, measure in parts(options.small, device, options.rounds):
        if key in rows or key.split(" / ")[0] not in options.parts or time.monotonic() - began > options.seconds:
            continue
        try:
            rows[key] = measure()
        except Exception as error:  # out of memory, or a compiler's own fault: the other rows go on
            print(f"{key}: FAILED: {type(error).__name__}: {str(error).strip()[:500]}", flush=True)
            failed = True
        else:
            save(path, head, rows)
            print(f"{key}: {line(rows[key])}", flush=True)
        torch.compiler.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    report(rows, path)
    if failed:
        raise SystemExit(1)


def line(row: dict[str, Any]) -> str:
    if "build seconds" in row:
        seconds, memory = row["build seconds"]["median"], row["build MB"]["median"]
        return f"{row['parameters'] / 1e6:.1f} M parameters, {row['nodes']} nodes: {seconds:.2f} s, {memory:.1f} MB"
    name = "low / full" if "low / full" in row else "net / graph"
    ratio = row[name]
    return f"{name} {ratio['median']:.4f} (quartiles {ratio['q1']:.4f} to {ratio['q3']:.4f}, n = {ratio['n']})"


if __name__ == "__main__":
    main()
