"""The cost of switching modes: a step of ``LowModeModel``, and the same step that calls its compiled graph directly.

python -m bench.overhead --small      # ResNet-18 with the CIFAR stem, 32×32, batch 125, on two CPU cores
python -m bench.overhead              # ResNet-50 too

Two measurements in one run. Whole low steps (forward, backward, SGD), paired and interleaved, show what a user waits
for. The Python of the switch alone is timed without the graphs: the median of thousands of calls.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.case import Case
from bench.harness import RESULTS, header, load_rows, paired_ratio, paired_times, save, summary
from bench.networks import CASES
from lowmode_fx import BernoulliSchedule, LowModeModel, Mode, build_pair

SMALL = ("resnet18-cifar",)


def make(case: Case, device: torch.device) -> tuple[LowModeModel, torch.optim.Optimizer, Tensor, Tensor]:
    """A compiled net whose steps are all low, with its optimizer attached, and a batch."""
    torch.manual_seed(0)
    model = case.build().to(device).train()
    images = torch.randn(case.batch, 3, case.side, case.side, device=device)
    targets = torch.randint(0, 10, (case.batch,), device=device)
    net = LowModeModel(build_pair(model, images[:2]), BernoulliSchedule(p=1.0)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    net.attach(optimizer)
    return net, optimizer, images, targets


def measure(case: Case, device: torch.device, rounds: int) -> dict[str, Any]:
    net, optimizer, images, targets = make(case, device)
    direct = net._runner.compiled[Mode.LOW]

    def step(forward: Callable[[Tensor], Any]) -> None:
        F.cross_entropy(forward(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    functions = {"net": lambda: step(net), "compiled graph": lambda: step(direct)}
    times = paired_times(functions, device, rounds, warmup=3)
    python = switch_microseconds(net, images)
    seconds = statistics.median(times["compiled graph"])
    return {
        "batch": case.batch,
        "side": case.side,
        "net / compiled graph": paired_ratio(times["net"], times["compiled graph"]),
        "low step seconds": summary(times["compiled graph"]),
        "python of the switch, microseconds": python,
        "python / low step": python["median"] * 1e-6 / seconds,
    }


def switch_microseconds(net: LowModeModel, images: Tensor, calls: int = 20_000) -> dict[str, float]:
    """Microseconds of ``net(images)`` beyond calling the graph: schedule, choice and count, with empty modes."""

    def empty(images: Tensor) -> Tensor:
        return images

    compiled, net._runner.compiled = net._runner.compiled, dict.fromkeys((Mode.FULL, Mode.LOW), empty)
    try:
        ours, theirs = (_seconds(function, images, calls) for function in (net, empty))
    finally:
        net._runner.compiled = compiled
    return summary([(a - b) * 1e6 for a, b in zip(ours, theirs, strict=True)])


def _seconds(function: Callable[[Tensor], Any], images: Tensor, calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        function(images)
        times.append(time.perf_counter() - began)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--resume", action="store_true", help="keep the rows in the result file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = options.out or RESULTS / f"overhead_{device.type}.json"
    head, rows = header("overhead", rounds=options.rounds), load_rows(path, options.resume)
    for name in SMALL if options.small else ("resnet18-cifar", "resnet50-cifar"):
        if name in rows:
            continue
        rows[name] = measure(CASES[name], device, options.rounds)
        save(path, head, rows)
        row, ratio = rows[name], rows[name]["net / compiled graph"]
        print(
            f"{name}: net / compiled graph {ratio['median']:.4f} (quartiles {ratio['q1']:.4f} to {ratio['q3']:.4f}, "
            f"n = {ratio['n']}); Python {row['python of the switch, microseconds']['median']:.1f} µs, "
            f"{row['python / low step']:.3%} of a low step",
            flush=True,
        )


if __name__ == "__main__":
    main()
