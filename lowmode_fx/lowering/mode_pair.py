"""What a pair is: a model with its two graphs, and the report of how the low one was made. It copies and pickles."""

from __future__ import annotations

import copy
import hashlib
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.downsampling import downsample
from lowmode_fx.lowering.fit import NoEffectWarning
from passes import Change, PassReport, bind_graph


@dataclass(frozen=True)
class PairReport:
    """What was done to make the low graph, and what it was made for.

    ``input_shape`` and ``low_input_shape`` are ``(N, C, *S)`` of the example in either mode, ``input_dtype`` its type.
    ``leaf_modules``: the classes that were not traced into, by the user's wish.
    """

    model: str
    front_end: str
    front_end_failures: tuple[str, ...]
    input_shape: tuple[int, ...]
    low_input_shape: tuple[int, ...]
    passes: tuple[PassReport, ...]
    notes: tuple[str, ...]
    input_dtype: torch.dtype = torch.float32
    leaf_modules: tuple[type[nn.Module], ...] = ()

    def of(self, name: str) -> PassReport:
        """The report of one pass. Raises ``KeyError`` where that pass did not run."""
        for report in self.passes:
            if report.name == name:
                return report
        raise KeyError(name)

    @property
    def pooled(self) -> tuple[Change, ...]:
        """The convolutions whose kernels are pooled."""
        return self.of("pool_weights").changes


@dataclass(frozen=True)
class ModePair:
    """A model with its two graphs; all three hold the very same parameters, buffers and submodules.

    ``full`` takes images ``(N, C, *S)``, ``low`` takes downsampled ones ``(N, C, *⌈S/r⌉)``. Both are for training;
    inference is the model's own business.
    """

    model: nn.Module
    full: fx.GraphModule
    low: fx.GraphModule
    config: LowModeConfig
    report: PairReport

    def downsample(self, images: Tensor) -> Tensor:
        """Full-mode images ``(N, C, *S)`` as low-mode takes them: ``(N, C, *⌈S/r⌉)``, unless they stay whole."""
        if not self.config.downsample_input:
            return images
        return downsample(images, self.config.ratio, self.config.input_method)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModePair:
        model = copy.deepcopy(self.model, memo)
        graphs = (copy.deepcopy(graph_module.graph, memo) for graph_module in (self.full, self.low))
        full, low = (bind_graph(model, graph, f"{type(model).__name__}Graph") for graph in graphs)
        return ModePair(model, full, low, self.config, self.report)

    def __reduce__(self) -> Any:
        # Graphs call functions that are made on the spot, which no pickle holds; tracing makes them again.
        return rebuild_pair, (self.model, self.config, self.report, _spelled(self))


def rebuild_pair(model: nn.Module, config: LowModeConfig, report: PairReport, spelled: str) -> ModePair:
    """The pair that was pickled, traced again from its model.

    Raises ``ValueError`` where the graphs come out otherwise.
    """
    from lowmode_fx.lowering.pair import build_pair  # which makes what is defined here

    # The model may have another type than when the pair was built, and so may the images that it takes.
    like = next((value for value in model.parameters() if value.is_floating_point()), None)
    dtype, device = (report.input_dtype, None) if like is None else (like.dtype, like.device)
    example = torch.empty(report.input_shape, dtype=dtype, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # it was given when the pair was built
        front_end: Any = report.front_end
        pair = build_pair(model, example, config, front_end=front_end, leaf_modules=report.leaf_modules)
    if _spelled(pair) != spelled:
        raise ValueError(
            f"the pickled pair of {report.model} had other graphs than its model gives now: its code, its flags or "
            "torch have changed since; build the pair again"
        )
    return pair


def _spelled(pair: ModePair) -> str:
    """A digest of both graphs: operations, targets and arguments."""
    lines = (
        f"{node.name} {node.op} {_target(node)} {node.args} {node.kwargs}"
        for graph_module in (pair.full, pair.low)
        for node in graph_module.graph.nodes
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _target(node: fx.Node) -> str:
    return f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__qualname__', node.target)}"
