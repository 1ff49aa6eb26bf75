"""The Python around a captured step's replay: ``TrainStep`` in parts, with nothing in place of the graph.

python -m bench.captured_overhead --small    # ResNet-18 with the CIFAR stem (15 seconds)
python -m bench.captured_overhead            # ResNet-50 and EfficientNet-B0 too (a minute)

On a GPU a captured step is one replay of a CUDA graph, which the host's work before it delays. Here a replay does
nothing, and two images of 32×32 are copied, so that what remains is that work. The step and its parts are called in
turn, thousands of times. Each figure is the lower quartile: other programs slow calls down, and none makes one faster.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.harness import RESULTS, header, save, summary
from bench.networks import CASES
from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, TrainStep, build_pair
from lowmode_fx.runtime.captured.arithmetic import Batch
from lowmode_fx.runtime.captured.recorded import Place, gradients_of
from lowmode_fx.runtime.captured.writes import QUIET
from lowmode_fx.utils.tables import markdown_table

Result = TypeVar("Result")
SMALL = ("resnet18-cifar",)
NAMES = (*SMALL, "resnet50-cifar", "efficientnet_b0")
SIDE, IMAGES, BLOCK = 32, 2, 500
WHOLE = "a step"


class NoGraphs:
    """In place of CUDA graphs: a recording is a step, and a replay does nothing."""

    def rehearse(self, run: Callable[[], Result]) -> tuple[Result, list[str]]:
        return run(), []

    def capture(
        self, run: Callable[[], Result], generators: Iterable[torch.Generator]
    ) -> tuple[Result, Callable[[], None]]:
        return run(), lambda: None

    def capture_two(
        self,
        first: Callable[[], Result],
        between: Callable[[Result], object],
        second: Callable[[Result], object],
        generators: Iterable[torch.Generator],
    ) -> tuple[Result, Callable[[], None], Callable[[], None]]:
        raise NotImplementedError("the criterion of this benchmark can be captured")

    def forget(self) -> None:
        pass


def make(name: str) -> tuple[TrainStep, Tensor, Tensor]:
    """A step whose two kinds are recorded and which has run often since, with its batch."""
    torch.manual_seed(0)
    images, targets = torch.randn(IMAGES, 3, SIDE, SIDE), torch.randint(0, 10, (IMAGES,))
    pair = build_pair(CASES[name].build(), images, LowModeConfig(kernel_ratio=1))
    net = LowModeModel(pair, BernoulliSchedule(p=0.5), compile=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    step = TrainStep(net, F.cross_entropy, optimizer, graphs=NoGraphs())
    for _ in range(2 * QUIET):
        step(images, targets)
    if step.captures != 2 or step.optimizer_outside is not None:
        raise RuntimeError(f"{step.captures} kinds of steps are captured, not 2: {step.optimizer_outside}")
    return step, images, targets


def parts(step: TrainStep, images: Tensor, targets: Tensor) -> dict[str, Callable[[], object]]:
    """What a step does besides its replay, each part alone."""
    captured: Any = step._captured
    batch, place = Batch((images,), {}, targets), Place(True, True)
    net, watch, optimizer = captured._net, captured._changes.watch, captured._changes.optimizer_watch

    def mode_and_count() -> None:
        net.begin_step(batch.args, batch.kwargs)
        net.settle()
        captured._updates.count(None)

    progress, leaves = captured._progress(step.net.mode, batch, place)
    return {
        "is the model unchanged": watch.changed,
        "is the optimizer unchanged": lambda: (optimizer.loaded(), optimizer.changed_option()),
        "mode, count of steps": mode_and_count,
        "learning rates": captured._updates.write_rates,
        "kind of the batch": lambda: captured._progress(progress.kind.mode, batch, place),
        "are there gradients": lambda: progress.fits(gradients_of(captured._arithmetic.trained())),
        "copies of the batch": lambda: progress.recorded.static.fill(leaves),
        "copy of the loss": progress.recorded.loss.clone,
    }


def measure(names: Iterable[str], blocks: int) -> dict[str, Any]:
    """Rows by network: microseconds of a step and of its parts, networks and parts in turn."""
    functions: dict[str, dict[str, Callable[[], object]]] = {}
    for name in names:
        step, images, targets = make(name)
        functions[name] = {WHOLE: partial(step, images, targets), **parts(step, images, targets)}
    gc.collect()
    times = {name: {part: list[float]() for part in found} for name, found in functions.items()}
    for _ in range(blocks):
        for name, found in functions.items():
            for _ in range(BLOCK):
                for part, function in found.items():
                    began = time.perf_counter_ns()
                    function()
                    times[name][part].append((time.perf_counter_ns() - began) / 1000)
    return {name: {part: summary(values) for part, values in found.items()} for name, found in times.items()}


def table(rows: Mapping[str, Any]) -> str:
    """Markdown: microseconds of each part (lower quartiles), a column for each network."""
    lines = [[part, *(f"{row[part]['q1']:.1f}" for row in rows.values())] for part in next(iter(rows.values()))]
    return markdown_table(["µs of Python", *rows], lines, left=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"only {', '.join(SMALL)}")
    parser.add_argument("--blocks", type=int, default=40, help=f"of {BLOCK} steps")
    parser.add_argument("--out", type=Path, default=RESULTS / "captured_overhead_cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    head = header("captured_overhead", blocks=options.blocks, block=BLOCK, images=IMAGES, side=SIDE)
    rows = measure(SMALL if options.small else NAMES, options.blocks)
    save(options.out, head, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
