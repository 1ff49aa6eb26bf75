"""The training steps that are timed together: a net's modes, run in a loop or as one call, and its peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import Case
from bench.timed_graphs import TimedGraphs
from bench.training_step import training_step
from lowmode_fx import LowModeConfig, LowModeModel, Mode, TrainStep, build_ladder
from lowmode_fx.runtime.schedules.chosen import ChosenMode

EAGER, COMPILED, GRAPHS, WHOLE = "eager", "compiled", "cuda graphs", "whole step"
#: Low modes by their names in rows: pooled kernels, kept ones, kept ones of larger images.
LOW, KEPT, LARGER = "low", "resolution only", "4/3"
CONFIGS = {
    LOW: LowModeConfig(),
    KEPT: LowModeConfig(kernel_ratio=1),
    LARGER: LowModeConfig(ratio=4 / 3, kernel_ratio=1),
}
PLAIN_FULL, PLAIN_HALF = "plain compiled full", "plain compiled half"
Step = Callable[[], None]


@dataclass
class Steps:
    """One training step of each kind and name, over one set of parameters.

    ``held``: bytes in use between two steps. ``whole``: the ``TrainStep`` of whole steps, if any. ``graphs``: its CUDA
    graphs, on a GPU.
    """

    kinds: dict[str, dict[str, Step]]
    net: LowModeModel
    held: int
    whole: TrainStep | None = None
    graphs: TimedGraphs | None = None

    @property
    def uncompiled(self) -> list[str]:
        """Names of the net's modes that run uncompiled, on request or because their compilation failed."""
        return uncompiled(self.net)


def steps(case: Case, device: torch.device, kinds: tuple[str, ...], batch: int, graphs: Any = None) -> Steps:
    """Training steps of one network: full-mode and three low modes in each kind, and of peers with their defaults.

    Peers are the plain model through ``torch.compile``, on full images and on half-size images from a loader,
    launched kernel by kernel. ``graphs``: replaces CUDA graphs in tests.
    """
    torch.manual_seed(0)
    model = case.build().to(device).train()
    images = torch.randn(batch, 3, case.side, case.side, device=device)
    targets = torch.randint(0, 10, (batch,), device=device)
    autocast = torch.bfloat16 if device.type == "cuda" else None
    # On a CPU the weights keep their layout: gradients of pooled kernels would be copied to it.
    images = images.to(memory_format=torch.channels_last)
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    ladder, schedule = build_ladder(model, images[:2], CONFIGS), ChosenMode()
    options = {"dynamic": False, **({"mode": "reduce-overhead"} if GRAPHS in kinds else {})}
    net = LowModeModel(ladder, schedule, compile=EAGER not in kinds, compile_options=options)
    net.train()

    def loop(forward: Callable[[torch.Tensor], Any], images: torch.Tensor = images) -> None:
        if GRAPHS in kinds:
            torch.compiler.cudagraph_mark_step_begin()
        training_step(forward, lambda: (images, targets), optimizer, autocast)

    modes = {"full": Mode.FULL, **{name: Mode(name) for name in CONFIGS}}
    # Parameters, their momentum, buffers and the batch; gradients exist only within a step.
    held = [*model.parameters(), *model.parameters(), *model.buffers(), images]
    found = Steps({}, net, sum(tensor.nbytes for tensor in held))
    for kind in kinds:
        if kind == WHOLE:
            if graphs is None and device.type == "cuda":
                graphs = TimedGraphs(device)
            found.whole = TrainStep(net, F.cross_entropy, optimizer, autocast=autocast, graphs=graphs)
            found.graphs = graphs if isinstance(graphs, TimedGraphs) else None
            chosen = partial(_whole, found.whole, schedule, images, targets)
            found.kinds[kind] = {name: partial(chosen, mode) for name, mode in modes.items()}
        else:
            found.kinds[kind] = {name: partial(loop, partial(net.run, mode)) for name, mode in modes.items()}
    launched = next((kind for kind in kinds if kind in (COMPILED, GRAPHS)), None)
    if launched is not None:
        found.kinds[launched] |= _peers(model, images, options, loop)
    return found


def capture_all(whole: TrainStep, functions: Sequence[Step]) -> None:
    """Run each step until it is compiled and, on a GPU, captured: before that, each runs twice as in a loop.

    Compiling one step may make another capture again, so there are at most two rounds.
    """
    for _ in range(2):
        for function in functions:
            for _ in range(4):
                function()
        if whole.uncaptured is not None or whole.captures >= len(functions):
            return


def uncompiled(net: LowModeModel) -> list[str]:
    """Names of the modes that run uncompiled, on request or because their compilation failed."""
    return [str(mode) for mode in net._runner.uncompiled]


def captured(step: TrainStep) -> dict[str, Any]:
    """The number of graphs, or why there are none: each row shows it, so that no fallback goes unnoticed."""
    return {"captures": step.captures, "uncaptured": step.uncaptured, "optimizer outside": step.optimizer_outside}


def _whole(step: TrainStep, schedule: ChosenMode, images: torch.Tensor, targets: torch.Tensor, mode: Mode) -> None:
    schedule.chosen = mode
    step(images, targets)


def _peers(
    model: nn.Module, images: torch.Tensor, options: dict[str, Any], loop: Callable[..., None]
) -> dict[str, Step]:
    half = tuple(side // 2 for side in images.shape[2:])
    small = F.interpolate(images, half, mode="bilinear", antialias=True).contiguous(memory_format=torch.channels_last)
    plain = torch.compile(model, **options)
    return {PLAIN_FULL: partial(loop, plain), PLAIN_HALF: partial(loop, plain, small)}
