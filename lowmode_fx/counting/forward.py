"""What a forward costs in each mode: fvcore on every graph of a ladder, and a table of layers that adds up.

fvcore is imported where it counts, so that training runs on machines without it.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lowmode_fx.counting.handles import HANDLES, Handle
from lowmode_fx.counting.operators import COMPUTE_OPS, FREE_OPS
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from passes.match import ConvSite, conv_sites
from passes.preserve import copy_apart, copy_spread_out, preserve_attributes, train_mode
from passes.shapes import node_shape
from passes.trees import tree_leaves
from passes.wording import sides

_FULL = str(Mode.FULL)


@dataclass(frozen=True)
class LayerFlops:
    """One row: a convolution, or all of one operator, by the names of the modes: the cheapest first, ``full`` last.

    ``kernels``: as ``3×3``; empty where the row is no convolution. ``macs``: per image.
    """

    name: str
    kernels: Mapping[str, str]
    macs: Mapping[str, int]

    @property
    def full(self) -> str:
        """The kernel in full-mode; empty where the row is no convolution."""
        return self.kernels.get(_FULL, "")

    @property
    def low(self) -> str:
        """The kernel in the cheapest mode; empty where the row is no convolution."""
        return next(iter(self.kernels.values()), "")

    @property
    def full_macs(self) -> int:
        """macs per image in full-mode."""
        return self.macs[_FULL]

    @property
    def low_macs(self) -> int:
        """macs per image in the cheapest mode."""
        return next(iter(self.macs.values()))

    @property
    def ratio(self) -> float:
        """low_macs / full_macs; ``nan`` where full-mode counts nothing."""
        return _share(self.low_macs, self.full_macs)

    @property
    def ratios(self) -> dict[str, float]:
        """Of each low mode, its macs over full-mode's; ``nan`` where full-mode counts nothing."""
        return _shares(self.macs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        totals = {"full": self.full, "low": self.low, "full_macs": self.full_macs, "low_macs": self.low_macs}
        return {"name": self.name, **totals, "kernels": dict(self.kernels), "macs": dict(self.macs)}


@dataclass(frozen=True)
class FlopReport:
    """Multiply-adds per image of one forward in each mode; the layers add up to the totals.

    ``modes``: their names, the cheapest first, ``full`` last. ``free``: operators that count as zero, with the reason.
    """

    modes: tuple[str, ...]
    layers: tuple[LayerFlops, ...]
    free: Mapping[str, str]

    @property
    def macs(self) -> dict[str, int]:
        """The total by mode's name."""
        return {mode: sum(layer.macs[mode] for layer in self.layers) for mode in self.modes}

    @property
    def full_macs(self) -> int:
        """The total of full-mode."""
        return self.macs[_FULL]

    @property
    def low_macs(self) -> int:
        """The total of the cheapest mode."""
        return self.macs[self.modes[0]]

    @property
    def ratio(self) -> float:
        """low_macs / full_macs; ``nan`` where full-mode counts nothing."""
        return _share(self.low_macs, self.full_macs)

    @property
    def ratios(self) -> dict[str, float]:
        """Of each low mode, its total over full-mode's; ``nan`` where full-mode counts nothing."""
        return _shares(self.macs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        totals = {"full_macs": self.full_macs, "low_macs": self.low_macs, "ratio": self.ratio, "macs": self.macs}
        return {**totals, "layers": [layer.to_dict() for layer in self.layers], "free": dict(self.free)}


class UncountedError(ValueError):
    """An operator that is neither counted nor known to be free. ``operator``: its name."""

    def __init__(self, operator: str) -> None:
        self.operator = operator
        super().__init__(
            f"count_flops: {operator} is neither counted by fvcore nor known to be free; give its macs with "
            f"handles={{{operator!r}: function}}, or None if it multiplies nothing"
        )


def count_flops(ladder: Ladder, *, handles: Mapping[str, Handle | None] | None = None) -> FlopReport:
    """macs per image of every mode's graph, as fvcore counts them, on the sizes that the ladder was built for.

    Each graph runs once on blank images; weights, buffers and RNG stay as they are. A model on the meta device is
    counted too: its weights are a single zero each, spread over their shapes. ``handles``: more fvcore handles,
    ``{"aten::op": handle}``; ``None`` as a handle says that the operator is free.

    Raises ``UncountedError`` (``ValueError``) for an operator that is neither counted nor known to be free.
    """
    with _spread_out(ladder) as copied:
        return _report(ladder, copied, handles or {})


@contextmanager
def _spread_out(ladder: Ladder) -> Iterator[Ladder]:
    """A copy that torch.jit, by which fvcore traces, can run: it does without values, and not without a device.

    A copy also keeps out of the model what forwards write.
    """
    if not any(tensor.is_meta for tensor in (*ladder.model.parameters(), *ladder.model.buffers())):
        yield copy_apart(ladder, ladder.model)
        return
    with torch.device("cpu"):  # whatever device is torch's default here
        yield copy_spread_out(ladder, ladder.model)


def _report(ladder: Ladder, copied: Ladder, handles: Mapping[str, Handle | None]) -> FlopReport:
    counts: dict[str, dict[str, float]] = {}
    free: dict[str, str] = {}
    # Closures are no part of a copy, and generators may be anybody's.
    with preserve_attributes(ladder.model), train_mode(copied.model):
        for mode in full_first(ladder):
            counts[str(mode)], skipped = _count(copied.graph(mode), blank_inputs(copied, mode), handles)
            free |= skipped
    names = tuple(map(str, ladder.modes))
    images = ladder.inputs.image.shape[0]
    layers = (*_conv_rows(ladder, counts), *_operator_rows(names, counts, images))
    return FlopReport(names, layers, free)


def blank_inputs(ladder: Ladder, mode: Mode, device: str | None = None) -> tuple[Tensor, ...]:
    """Zeros for what the graph of a mode takes, of the sizes that the ladder was built for and the model's own type.

    Images are ``(N, C, *S)`` in full-mode and ``(N, C, *⌈S/r⌉)`` in a low one. device: by default the model's own.
    """
    like = next((value for value in ladder.model.parameters() if value.is_floating_point()), torch.empty(0))
    return ladder.mode_inputs(mode).blank(device or like.device, like.dtype)


def full_first(ladder: Ladder) -> tuple[Mode, ...]:
    """The modes as tables tell them: full-mode, then the low ones, the cheapest first."""
    return (Mode.FULL, *ladder.modes[:-1])


def _share(low: int, full: int) -> float:
    return low / full if full else math.nan


def _shares(macs: Mapping[str, int]) -> dict[str, float]:
    return {mode: _share(count, macs[_FULL]) for mode, count in macs.items() if mode != _FULL}


def _count(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...], handles: Mapping[str, Handle | None]
) -> tuple[dict[str, float], dict[str, str]]:
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(_Tensors(graph_module), inputs)
    for name, handle in HANDLES.items():
        analysis.set_op_handle(name, handle)
    for name, given in handles.items():
        analysis.set_op_handle(name, given)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with warnings.catch_warnings(), _quiet("fvcore"), torch.no_grad():
        warnings.simplefilter("ignore")
        counts, skipped = dict(analysis.by_operator()), analysis.unsupported_ops()
    unknown = sorted(name for name in skipped if name in COMPUTE_OPS or name not in FREE_OPS)
    if unknown:
        raise UncountedError(unknown[0])
    return counts, {name: FREE_OPS[name] for name in sorted(skipped)}


class _Tensors(nn.Module):
    """A graph that returns its tensors alone: torch.jit knows few containers, and wants no numbers in them."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__()
        self.graph_module = graph_module
        self.training = graph_module.training

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in tree_leaves(self.graph_module(*inputs)) if isinstance(leaf, Tensor))


def _conv_rows(ladder: Ladder, counts: Mapping[str, dict[str, float]]) -> list[LayerFlops]:
    """One row a convolution; what fvcore counted beyond them is inside modules that are not traced."""
    images = ladder.inputs.image.shape[0]
    sites = {str(mode): conv_sites(ladder.graph(mode)) for mode in ladder.modes}
    rows = []
    for row in zip(*sites.values(), strict=True):
        by_mode = dict(zip(sites, row, strict=True))
        kernels = {mode: sides(site.kernel) for mode, site in by_mode.items()}
        macs = {mode: _conv_macs(site) // images for mode, site in by_mode.items()}
        rows.append(LayerFlops(by_mode[_FULL].name, kernels, macs))
    rest = {mode: round(counts[mode].pop("conv", 0) / images) - sum(row.macs[mode] for row in rows) for mode in sites}
    assert min(rest.values()) >= 0, "the layers count more macs than fvcore does"
    return rows + ([LayerFlops("convolutions inside untraced modules", {}, rest)] if any(rest.values()) else [])


def _conv_macs(site: ConvSite) -> int:
    from fvcore.nn.jit_handles import conv_flop_count

    shape, out = list(node_shape(site.input)), list(node_shape(site.node))
    return int(conv_flop_count(shape, list(site.weight_shape), out, transposed=site.transposed))


def _operator_rows(modes: tuple[str, ...], counts: Mapping[str, Mapping[str, float]], images: int) -> list[LayerFlops]:
    names = {name for mode in modes for name in counts[mode]}
    operators = sorted(sorted(names), key=lambda name: -counts[_FULL].get(name, 0))
    rows = [(name, {mode: round(counts[mode].get(name, 0) / images) for mode in modes}) for name in operators]
    return [LayerFlops(f"all {name}", {}, macs) for name, macs in rows if any(macs.values())]


class _quiet:
    """Silence fvcore's logger for what the count itself checks."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
