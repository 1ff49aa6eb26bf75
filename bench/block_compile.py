"""What compiling block by block costs and saves, beside compiling the whole model.

python -m bench.block_compile --small     # the demo's network alone (ten minutes)
python -m bench.block_compile             # ResNet-50 and EfficientNet-B0 too (half an hour)

Compilation: a fresh process with an empty cache takes the first training step of each mode; its CPU time and that of
the compilers that it starts is counted. Warm: the same again, what inductor made found on disk. Steps: one process
interleaves compiled, block by block and uncompiled steps of each mode, in CPU time of one thread. Images are
channels_last; of the demo's network, arms with contiguous ones show what it costs that each block changes the layout.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters

from bench.harness import RESULTS, header, load_rows, paired_ratio, paired_times, save, summary
from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, build_ladder
from lowmode_fx.cli.demo import demo_model
from lowmode_fx.lowering.blocks import find_blocks, kind_of
from lowmode_fx.lowering.mode import Mode

#: How a net is compiled, by name of the arm, and the layout of its images.
ARMS: dict[str, tuple[Any, torch.memory_format]] = {
    "whole": (True, torch.channels_last),
    "blocks": ("blocks", torch.channels_last),
    "uncompiled": (False, torch.channels_last),
    "whole, contiguous images": (True, torch.contiguous_format),
    "blocks, contiguous images": ("blocks", torch.contiguous_format),
    "uncompiled, contiguous images": (False, torch.contiguous_format),
}
DEMO = "demo ResNet-10"
#: Model, side of the square images, batch.
CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    DEMO: (demo_model, 32, 48),
    "ResNet-50": (partial(timm.create_model, "resnet50", num_classes=10), 64, 16),
    "EfficientNet-B0": (partial(timm.create_model, "efficientnet_b0", num_classes=10), 64, 16),
}


def step(net: LowModeModel, mode: Mode, images: Tensor, labels: Tensor) -> None:
    """One forward and backward pass in a mode."""
    F.cross_entropy(net.run(mode, images), labels).backward()
    net.zero_grad()


def make(case: str, arm: str) -> tuple[LowModeModel, Tensor, Tensor]:
    """A net of two modes, compiled as the arm says, and a batch."""
    model, side, batch = CASES[case]
    compile, layout = ARMS[arm]
    torch.manual_seed(0)
    images, labels = torch.randn(batch, 3, side, side).contiguous(memory_format=layout), torch.arange(batch) % 10
    ladder = build_ladder(model().train(), images[:2], [LowModeConfig()])
    return LowModeModel(ladder, BernoulliSchedule(p=0.5, seed=0), compile=compile), images, labels


def compile_once(case: str, arm: str) -> dict[str, Any]:
    """CPU and wall seconds of the first step of each mode, in this process, and the graphs that were compiled."""
    net, images, labels = make(case, arm)
    cpu, wall, graphs = _cpu_seconds(), time.perf_counter(), counters["stats"]["unique_graphs"]
    for mode in net.modes:
        step(net, mode, images, labels)
    found = {"cpu_seconds": _cpu_seconds() - cpu, "wall_seconds": time.perf_counter() - wall}
    blocks = find_blocks(net.ladder.model)
    kinds = {kind_of(net.ladder.model.get_submodule(path)) for path in blocks}
    compiled = counters["stats"]["unique_graphs"] - graphs
    return {**found, "graphs": compiled, "blocks": len(blocks), "kinds": len(kinds)}


def step_times(case: str, rounds: int) -> dict[str, Any]:
    """CPU milliseconds of the steps of each arm and mode, and the ratio of each arm to the whole."""
    arms = [arm for arm, (_, layout) in ARMS.items() if case == DEMO or layout is torch.channels_last]
    made = {arm: make(case, arm) for arm in arms}
    found: dict[str, Any] = {}
    for mode in next(iter(made.values()))[0].modes:
        functions = {arm: partial(step, net, mode, images, labels) for arm, (net, images, labels) in made.items()}
        times = paired_times(functions, torch.device("cpu"), rounds, clock=time.process_time)
        found[str(mode)] = {
            **{arm: summary([1000 * value for value in values]) for arm, values in times.items()},
            **{f"{arm} over whole": paired_ratio(times[arm], times["whole"]) for arm in arms[1:]},
        }
    return found


def measure(case: str, rounds: int) -> dict[str, Any]:
    """All of a case, each part in a process of its own."""
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for arm in ("whole", "blocks"):
            cache = str(Path(folder, arm))
            for when in ("cold", "warm"):
                row[f"{arm}, {when}"] = _apart(cache, "--compile", case, arm)
            shutil.copytree(cache, Path(folder, "steps"), dirs_exist_ok=True)
        row["steps"] = _apart(str(Path(folder, "steps")), "--steps", case, str(rounds))
    return row


def _apart(cache: str, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    command = [sys.executable, "-m", "bench.block_compile", *arguments]
    result = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the demo's network alone")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS / "block_compile_cpu.json")
    parser.add_argument("--resume", action="store_true", help="keep the cases in the file")
    parser.add_argument("--compile", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--steps", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.compile:
        print(json.dumps(compile_once(*options.compile)))
        return
    if options.steps:
        print(json.dumps(step_times(options.steps[0], int(options.steps[1]))))
        return
    rows = load_rows(options.out, options.resume)
    for case in list(CASES)[: 1 if options.small else None]:
        if case not in rows:
            rows[case] = measure(case, options.rounds)
            save(options.out, header("bench/block_compile.py", rounds=options.rounds), rows)
            print(case, json.dumps(rows[case]), flush=True)


if __name__ == "__main__":
    main()
