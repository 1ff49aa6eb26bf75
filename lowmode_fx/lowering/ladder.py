"""``Ladder``, ``Rung`` and ``ModePair``: the modes of one model, cheapest first, full-mode last."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from torch import Tensor, fx, nn

from lowmode_fx.capture.inputs import ModelInputs
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.downsampling import downsample
from lowmode_fx.lowering.draft import Draft
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.report import PairReport
from lowmode_fx.utils.validation import wrong_type
from passes import bind_graph


@dataclass(frozen=True)
class Rung:
    """One low mode of a model: its name, its graph and its report.

    Attributes:
        mode: Name of the mode.
        model: The model that the graph is over.
        graph: The graph for downsampled images ``(N, C, *⌈S/r⌉)``.
        config: The configuration that the graph was made with.
        inputs: The call that the graph takes.
        report: What the passes changed and skipped.
        draft: The graph before its passes, if it is proven and runs steps.
    """

    mode: Mode
    model: nn.Module
    graph: fx.Graph
    config: LowModeConfig
    inputs: ModelInputs
    report: PairReport
    draft: Draft | None = None

    @cached_property
    def graph_module(self) -> fx.GraphModule:
        """The graph as a module. Its code is slow to generate, so this happens on first use."""
        return bind_graph(self.model, self.graph, f"{type(self.model).__name__}Low")

    def downsample(self, images: Tensor) -> Tensor:
        """Downsample full-mode images for this mode.

        Args:
            images: Full-mode images ``(N, C, *S)``.

        Returns:
            Images ``(N, C, *⌈S/r⌉)``; the same images if ``downsample_input=False``.
        """
        return downsampler(self.config)(images)

    def over(self, model: nn.Module, full: fx.GraphModule, memo: dict[int, Any]) -> Rung:
        """The same rung over a copy of its model, whose full graph is ``full``."""
        draft = None if self.draft is None else self.draft.over(model, full, memo)
        return replace(self, model=model, graph=copy.deepcopy(self.graph, memo), draft=draft)


class downsampler:
    """Downsamples images ``(N, C, *S)`` for a low mode. It is small and picklable, for the workers of a loader."""

    def __init__(self, config: LowModeConfig) -> None:
        self._arguments = config.downsampling

    def __call__(self, images: Tensor) -> Tensor:
        return downsample(images, **self._arguments)


@dataclass(frozen=True)
class Ladder:
    """A model with the graphs of its modes, cheapest first; all hold the same parameters and buffers.

    The graphs are for training; for inference use the model.

    Attributes:
        model: The original model.
        full: The full-mode graph, for images ``(N, C, *S)``.
        rungs: The low modes, cheapest first; their graphs take downsampled images.
        inputs: The call that full-mode takes.
        live: Whether low steps run the model itself and lower each call as it is made; otherwise they run the graphs.
    """

    model: nn.Module
    full: fx.GraphModule
    rungs: tuple[Rung, ...]
    inputs: ModelInputs
    live: bool = True

    def __str__(self) -> str:
        """What each low mode changes and leaves alone, with its notes."""
        return "\n".join(f"{rung.mode}: {rung.report}" for rung in self.rungs)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """All modes, cheapest first, full-mode last."""
        return (*(rung.mode for rung in self.rungs), Mode.FULL)

    def resolve(self, mode: Mode | str) -> Mode:
        """Return the ladder's own mode for a mode that may be given by its place (``Mode.at``).

        Args:
            mode: A mode of this ladder, its name, or a place in a ladder of this length.

        Raises:
            ValueError: The ladder does not have this mode.
            TypeError: It is neither a mode nor a name.
        """
        modes = self.modes
        if not isinstance(mode, Mode | str):
            raise wrong_type("mode", mode, "the name of a mode, such as 'full'")
        mode = Mode(mode) if isinstance(mode, str) else mode
        if mode in modes:
            return mode
        for place in range(len(modes)):
            if mode is Mode.at(place, len(modes)):
                return modes[place]
        shown = ", ".join(map(repr, map(str, modes)))
        raise ValueError(f"mode {str(mode)!r} is not one of this ladder's {len(modes)}: {shown}; use one of these")

    def rung(self, mode: Mode | str) -> Rung:
        """Return the rung of a low mode.

        Raises:
            ValueError: The mode is full-mode, or the ladder does not have it.
        """
        found = self.resolve(mode)
        for rung in self.rungs:
            if rung.mode is found:
                return rung
        raise ValueError(
            f"mode {str(mode)!r} is not a low mode: it runs the model as it is; give the name of a low mode"
        )

    def graph(self, mode: Mode | str) -> fx.GraphModule:
        """Return the graph of a mode.

        Raises:
            ValueError: The ladder does not have this mode.
        """
        return self.full if self.resolve(mode) is Mode.FULL else self.rung(mode).graph_module

    def mode_inputs(self, mode: Mode | str) -> ModelInputs:
        """Return the call that the graph of a mode takes.

        Raises:
            ValueError: The ladder does not have this mode.
        """
        return self.inputs if self.resolve(mode) is Mode.FULL else self.rung(mode).inputs

    def inputs_of(self, mode: Mode, leaves: Sequence[Tensor]) -> list[Tensor]:
        """Return the tensors of a full-mode call for the graph of a mode, with its images downsampled.

        Args:
            mode: A mode of this ladder.
            leaves: The tensors of the call, in the order of ``inputs.leaves``.
        """
        if self.resolve(mode) is Mode.FULL:
            return list(leaves)
        return self.inputs.map_images(leaves, self.rung(mode).downsample)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        model = copy.deepcopy(self.model, memo)
        full = bind_graph(model, copy.deepcopy(self.full.graph, memo), f"{type(model).__name__}Full")
        rungs = tuple(rung.over(model, full, memo) for rung in self.rungs)
        return type(self)(model, full, rungs, self.inputs, self.live)


@dataclass(frozen=True)
class ModePair(Ladder):
    """A ladder of one low mode.

    ``full`` takes images ``(N, C, *S)``, ``low`` takes downsampled images ``(N, C, *⌈S/r⌉)``.

    Attributes:
        model: The original model.
        full: The full-mode graph.
        rungs: The low mode, as a tuple of one.
        inputs: The call that full-mode takes.
        live: Whether low steps run the model itself; otherwise they run the low graph.
    """

    @property
    def low(self) -> fx.GraphModule:
        """The low-mode graph."""
        return self.rungs[0].graph_module

    @property
    def config(self) -> LowModeConfig:
        """The configuration of low-mode."""
        return self.rungs[0].config

    @property
    def report(self) -> PairReport:
        """What the passes changed and skipped to make the low-mode graph."""
        return self.rungs[0].report

    def downsample(self, images: Tensor) -> Tensor:
        """Downsample full-mode images for low-mode.

        Args:
            images: Full-mode images ``(N, C, *S)``.

        Returns:
            Images ``(N, C, *⌈S/r⌉)``; the same images if ``downsample_input=False``.
        """
        return self.rungs[0].downsample(images)


def as_ladder(value: Any, name: str = "ladder") -> Ladder:
    """A ladder, as an argument. Raises ``TypeError`` for anything else, such as a net that holds one."""
    if isinstance(value, Ladder):
        return value
    holds_one = isinstance(getattr(value, "ladder", None), Ladder)
    give = "its ladder, net.ladder" if holds_one else "a ModePair or Ladder, as from build_pair(model, example_input)"
    raise wrong_type(name, value, give)


def graph_digest(ladder: Ladder) -> str:
    """A digest of every graph: its operations, targets and arguments."""
    lines = (
        f"{node.name} {node.op} {_target(node)} {node.args} {node.kwargs}"
        for graph in (ladder.full.graph, *(rung.graph for rung in ladder.rungs))
        for node in graph.nodes
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _target(node: fx.Node) -> str:
    return f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__qualname__', node.target)}"
