"""Several modes of one model: a ladder, its rungs, and the ladder of one low mode that is a pair."""

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
from passes import bind_graph


@dataclass(frozen=True)
class Rung:
    """A low mode of ``model``: its name, its graph for downsampled images ``(N, C, *⌈S/r⌉)``, and how it was made.

    ``inputs``: the call that the graph takes. ``draft``: the graph before its passes, where it is proven
    and runs steps.
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
        """The graph with its code, which takes long to generate: only when it is asked for."""
        return bind_graph(self.model, self.graph, f"{type(self.model).__name__}Low")

    def downsample(self, images: Tensor) -> Tensor:
        """Full-mode images ``(N, C, *S)`` as this mode takes them, ``(N, C, *⌈S/r⌉)``, unless they stay whole."""
        return downsampler(self.config)(images)

    def over(self, model: nn.Module, full: fx.GraphModule, memo: dict[int, Any]) -> Rung:
        """The same rung over a copy of its model, of which ``full`` is the full graph."""
        draft = None if self.draft is None else self.draft.over(model, full, memo)
        return replace(self, model=model, graph=copy.deepcopy(self.graph, memo), draft=draft)


class downsampler:
    """Images ``(N, C, *S)`` as low-mode takes them. Small and picklable, for the workers of a loader."""

    def __init__(self, config: LowModeConfig) -> None:
        self._arguments = config.downsampling

    def __call__(self, images: Tensor) -> Tensor:
        return downsample(images, **self._arguments)


@dataclass(frozen=True)
class Ladder:
    """A model with the graphs of its modes, the cheapest first; all hold the very same parameters and buffers.

    ``full`` takes images ``(N, C, *S)``, each rung's graph downsampled ones. All are for training; inference is the
    model's own business. ``inputs``: the call that full-mode takes. ``modes``: the names of the rungs and, last,
    ``Mode.FULL``. ``live``: low steps run the model itself, each call lowered as it is made; else they run the graphs.
    """

    model: nn.Module
    full: fx.GraphModule
    rungs: tuple[Rung, ...]
    inputs: ModelInputs
    live: bool = True

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Every mode, the cheapest first, full-mode last."""
        return (*(rung.mode for rung in self.rungs), Mode.FULL)

    def resolve(self, mode: Mode) -> Mode:
        """The ladder's own name of a mode: of one that is told by its place (``Mode.at``), or the mode itself.

        Raises ``ValueError`` for a mode that the ladder doesn't have.
        """
        modes = self.modes
        if mode in modes:
            return mode
        for place in range(len(modes)):
            if mode is Mode.at(place, len(modes)):
                return modes[place]
        shown = ", ".join(map(repr, map(str, modes)))
        raise ValueError(f"mode {str(mode)!r} is none of this ladder's {len(modes)}: {shown}; give a schedule for them")

    def rung(self, mode: Mode) -> Rung:
        """The rung of a low mode. Raises ``ValueError`` for full-mode and for a mode that the ladder doesn't have."""
        found = self.resolve(mode)
        for rung in self.rungs:
            if rung.mode is found:
                return rung
        raise ValueError(f"mode {str(mode)!r} is no rung: it is the network as specified")

    def graph(self, mode: Mode) -> fx.GraphModule:
        """The graph that runs a mode. Raises ``ValueError`` for a mode that the ladder doesn't have."""
        return self.full if self.resolve(mode) is Mode.FULL else self.rung(mode).graph_module

    def mode_inputs(self, mode: Mode) -> ModelInputs:
        """The call that the graph of a mode takes. Raises ``ValueError`` for a mode that the ladder doesn't have."""
        return self.inputs if self.resolve(mode) is Mode.FULL else self.rung(mode).inputs

    def inputs_of(self, mode: Mode, leaves: Sequence[Tensor]) -> list[Tensor]:
        """The tensors of a full-mode call as the graph of a mode takes them, its images downsampled."""
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
    """A ladder of one low mode: ``full`` takes images ``(N, C, *S)``, ``low`` downsampled ones ``(N, C, *⌈S/r⌉)``."""

    @property
    def low(self) -> fx.GraphModule:
        """The graph of low-mode."""
        return self.rungs[0].graph_module

    @property
    def config(self) -> LowModeConfig:
        """How low-mode differs from full-mode."""
        return self.rungs[0].config

    @property
    def report(self) -> PairReport:
        """What was done to make the low graph."""
        return self.rungs[0].report

    def downsample(self, images: Tensor) -> Tensor:
        """Full-mode images ``(N, C, *S)`` as low-mode takes them: ``(N, C, *⌈S/r⌉)``, unless they stay whole."""
        return self.rungs[0].downsample(images)


def graph_digest(ladder: Ladder) -> str:
    """A digest of every graph: operations, targets and arguments."""
    lines = (
        f"{node.name} {node.op} {_target(node)} {node.args} {node.kwargs}"
        for graph in (ladder.full.graph, *(rung.graph for rung in ladder.rungs))
        for node in graph.nodes
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _target(node: fx.Node) -> str:
    return f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__qualname__', node.target)}"
