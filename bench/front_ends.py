"""Low steps that run the model itself, as by default, beside proven graphs of torch.fx and torch.export.

python -m bench.front_ends --small    # ResNet-18 (CIFAR stem) and EfficientNet-B0 on 64×64 images, on two CPU cores
python -m bench.front_ends            # ResNet-50 and DenseNet-121 too

Every front end has a net of its own over one model. Low steps (forward, cross entropy, backward) are paired and
interleaved in one process, once uncompiled and once compiled. On a CPU time is that of the process, on one thread,
and compilation counts the compilers that it starts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._inductor import config as inductor

from bench.case import Case
from bench.harness import RESULTS, header, load_rows, paired_ratio, paired_steps, save, summary
from bench.networks import TINY, resnet
from lowmode_fx import BernoulliSchedule, LowModeModel, Mode, build_pair
from lowmode_fx.capture.frontends import FrontEndName
from lowmode_fx.utils.devices import synchronize

FRONT_ENDS: tuple[FrontEndName, ...] = ("auto", "fx", "export")
CASES: dict[str, Case] = {
    "resnet18-cifar": Case(partial(resnet, 18, "cifar", 10), 32, 32),
    "efficientnet_b0": Case(partial(timm.create_model, "efficientnet_b0"), 64, 32),
    "resnet50-imagenet": Case(partial(resnet, 50, "imagenet", 1000), 64, 32),
    "densenet121": Case(partial(timm.create_model, "densenet121"), 64, 32),
}
SMALL = ("resnet18-cifar", "efficientnet_b0")


def step(net: LowModeModel, images: Tensor, targets: Tensor) -> None:
    """One low step without an optimizer, which is the same for all."""
    F.cross_entropy(net.run(Mode.LOW, images), targets).backward()
    net.zero_grad()


def seconds_with_compilers() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def measure(case: Case, device: torch.device, rounds: int, compiled: bool) -> dict[str, Any]:
    """Seconds of the build and of the first steps by front end, and each graph's step over the model's own."""
    torch.manual_seed(0)
    model = case.build().to(device).train()
    images = torch.randn(case.batch, 3, case.side, case.side, device=device)
    targets = torch.randint(0, 10, (case.batch,), device=device)
    clock: Callable[[], float] = time.process_time if device.type == "cpu" else time.perf_counter
    build_pair(model, images[:2])  # what only the first build pays is not counted
    row: dict[str, Any] = {"batch": case.batch, "side": case.side, "build seconds": {}, "first steps seconds": {}}
    steps: dict[str, Callable[[], None]] = {}
    for front_end in FRONT_ENDS:
        began = clock()
        pair = build_pair(model, images[:2], front_end=front_end)
        row["build seconds"][front_end] = clock() - began
        net = LowModeModel(pair, BernoulliSchedule(p=1.0), compile=compiled).train()
        steps[front_end] = partial(step, net, images, targets)
        # Twice: what a first step leaves behind may be seen by a guard of the second.
        began = seconds_with_compilers()
        for _ in range(2):
            steps[front_end]()
        synchronize(device)
        row["first steps seconds"][front_end] = seconds_with_compilers() - began
    times = paired_steps(steps, device, rounds, clock=clock)
    row["step seconds"] = summary(times["auto"])
    row["graph / model"] = {name: paired_ratio(times[name], times["auto"]) for name in FRONT_ENDS if name != "auto"}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}")
    parser.add_argument("--tiny", action="store_true", help="an 8-layer network, to try the script")
    parser.add_argument("--kinds", nargs="*", default=["uncompiled", "compiled"], choices=["uncompiled", "compiled"])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--resume", action="store_true", help="keep the rows that the result file has")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    inductor.compile_threads = 1  # in this process and its children, whose time is counted
    torch.compile(torch.sin)(torch.ones(2, device=device))  # what the first compilation alone pays
    path = options.out or RESULTS / f"front_ends_{device.type}.json"
    head, rows = header("front_ends", rounds=options.rounds), load_rows(path, options.resume)
    cases = TINY if options.tiny else {name: CASES[name] for name in (SMALL if options.small else CASES)}
    for kind in options.kinds:
        for name, case in cases.items():
            key = f"{name}, {kind}"
            if key not in rows:
                rows[key] = measure(case, device, options.rounds, kind == "compiled")
                save(path, head, rows)
            print(line(key, rows[key]), flush=True)


def line(key: str, row: dict[str, Any]) -> str:
    """One row in words."""
    ratios = ", ".join(f"{name} {_shown(each)}" for name, each in row["graph / model"].items())
    builds = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row["build seconds"].items())
    firsts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in row["first steps seconds"].items())
    return f"{key}: a graph's step / the model's: {ratios}; build: {builds}; first two steps: {firsts}"


def table(rows: dict[str, Any]) -> str:
    """All rows as a Markdown table."""
    lines = [
        "| network | low step | graph of fx / model | graph of export / model | build: model, fx, export |",
        "| :-- | :-- | --: | --: | --: |",
    ]
    for key, row in rows.items():
        name, kind = key.split(", ")
        ratios = " | ".join(_shown(row["graph / model"][each]) for each in FRONT_ENDS if each != "auto")
        builds = ", ".join(f"{row['build seconds'][each]:.2f}" for each in FRONT_ENDS)
        lines.append(f"| {name} | {kind} | {ratios} | {builds} s |")
    return "\n".join(lines)


def _shown(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} ({ratio['q1']:.3f} to {ratio['q3']:.3f}, n = {ratio['n']})"


if __name__ == "__main__":
    main()
