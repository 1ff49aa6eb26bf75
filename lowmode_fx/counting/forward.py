"""What a forward costs: fvcore on both graphs, and a table of layers that adds up.

fvcore is imported where it counts, so that training runs on machines without it.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lowmode_fx.counting.operators import COMPUTE_OPS, FREE_OPS
from lowmode_fx.lowering.ladder import ModePair
from passes import propagate_shapes
from passes.match import ConvSite, conv_sites
from passes.preserve import copy_apart, preserve_attributes, train_mode

Handle = Callable[[list[Any], list[Any]], float]


@dataclass(frozen=True)
class LayerFlops:
    """One row: a convolution, or all of one operator. ``full_macs`` and ``low_macs`` are per image."""

    name: str
    full: str
    low: str
    full_macs: int
    low_macs: int

    @property
    def ratio(self) -> float:
        """low / full; ``nan`` where full-mode counts nothing."""
        return self.low_macs / self.full_macs if self.full_macs else math.nan


@dataclass(frozen=True)
class FlopReport:
    """Multiply-adds per image of one forward in either mode; the layers add up to the totals.

    ``free``: operators that count as zero, with the reason.
    """

    full_macs: int
    low_macs: int
    layers: tuple[LayerFlops, ...]
    free: Mapping[str, str]

    @property
    def ratio(self) -> float:
        """low_macs / full_macs."""
        return self.low_macs / self.full_macs

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


def count_flops(pair: ModePair, *, handles: Mapping[str, Handle | None] | None = None) -> FlopReport:
    """macs per image of both graphs, as fvcore counts them, on the sizes the pair was built for.

    Each graph runs once on blank images; weights, buffers and RNG stay as they are. ``handles``: more fvcore handles,
    ``{"aten::op": handle}``; ``None`` as a handle says that the operator is free.

    Raises ``ValueError`` for an operator that is neither counted nor known to be free.
    """
    # fvcore traces with torch.jit, which meta tensors don't survive; a copy keeps what forwards write out of the model.
    copied = copy_apart(pair, pair.model)
    full_input, low_input = example_inputs(pair)
    images = full_input.shape[0]
    # Closures are no part of a copy, and generators may be anybody's.
    with preserve_attributes(pair.model), train_mode(copied.model):
        full, full_free = _count(copied.full, full_input, handles or {})
        low, low_free = _count(copied.low, low_input, handles or {})
    layers = (*_conv_rows(pair, full, low), *_operator_rows(full, low, images))
    totals = (sum(layer.full_macs for layer in layers), sum(layer.low_macs for layer in layers))
    return FlopReport(*totals, layers, {**full_free, **low_free})


def example_inputs(pair: ModePair, device: str | None = None) -> tuple[Tensor, Tensor]:
    """Blank images ``(N, C, *S)`` and ``(N, C, *⌈S/r⌉)`` of the sizes that the pair was built for."""
    like = next(pair.model.parameters(), torch.empty(0))
    shapes = (pair.report.input_shape, pair.report.low_input_shape)
    full, low = (torch.zeros(shape, dtype=like.dtype, device=device or like.device) for shape in shapes)
    return full, low


def _count(
    graph_module: fx.GraphModule, images: Tensor, handles: Mapping[str, Handle | None]
) -> tuple[dict[str, float], dict[str, str]]:
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(graph_module, images)
    for name, handle in _HANDLES.items():
        analysis.set_op_handle(name, handle)
    for name, given in handles.items():
        analysis.set_op_handle(name, given)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with warnings.catch_warnings(), _quiet("fvcore"), torch.no_grad():
        warnings.simplefilter("ignore")
        counts, skipped = dict(analysis.by_operator()), analysis.unsupported_ops()
    unknown = sorted(name for name in skipped if name in COMPUTE_OPS or name not in FREE_OPS)
    if unknown:
        raise ValueError(
            f"count_flops: {unknown[0]} is neither counted by fvcore nor known to be free; give its macs with "
            f"handles={{{unknown[0]!r}: function}}, or None if it multiplies nothing"
        )
    return counts, {name: FREE_OPS[name] for name in sorted(skipped)}


def _conv_rows(pair: ModePair, full: dict[str, float], low: dict[str, float]) -> list[LayerFlops]:
    """One row a convolution; what fvcore counted beyond them is inside modules that are not traced."""
    full_input, low_input = example_inputs(pair)
    images = full_input.shape[0]
    full_sites, low_sites = conv_sites(pair.full), conv_sites(pair.low)
    full_shapes, low_shapes = propagate_shapes(pair.full, full_input), propagate_shapes(pair.low, low_input)
    rows = []
    for ours, theirs in zip(full_sites, low_sites, strict=True):
        counts = (_conv_macs(ours, full_shapes) // images, _conv_macs(theirs, low_shapes) // images)
        rows.append(LayerFlops(ours.name, _sides(ours.kernel), _sides(theirs.kernel), *counts))
    rest = (
        round(full.pop("conv", 0) / images) - sum(row.full_macs for row in rows),
        round(low.pop("conv", 0) / images) - sum(row.low_macs for row in rows),
    )
    assert min(rest) >= 0, "the layers count more macs than fvcore does"
    return rows + ([LayerFlops("convolutions inside untraced modules", "", "", *rest)] if any(rest) else [])


def _conv_macs(site: ConvSite, shapes: Mapping[fx.Node, Any]) -> int:
    from fvcore.nn.jit_handles import conv_flop_count

    shape, out = list(shapes[site.input]), list(shapes[site.node])
    return int(conv_flop_count(shape, list(site.weight_shape), out, transposed=site.transposed))


def _operator_rows(full: dict[str, float], low: dict[str, float], images: int) -> list[LayerFlops]:
    operators = sorted({*full, *low}, key=lambda name: -full.get(name, 0))
    counts = ((name, round(full.get(name, 0) / images), round(low.get(name, 0) / images)) for name in operators)
    return [LayerFlops(f"all {name}", "", "", ours, theirs) for name, ours, theirs in counts if ours or theirs]


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> float:
    """q kᵀ and the product with v: ``(…, L, E) · (…, S, E)`` and ``(…, L, S) · (…, S, V)``."""
    from fvcore.nn.jit_handles import get_shape

    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    assert query is not None and key is not None and value is not None
    return float(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _vector_macs(inputs: list[Any], outputs: list[Any]) -> float:
    """A matrix or a vector times a vector: ``(…, L) · (L)``."""
    from fvcore.nn.jit_handles import get_shape

    return float(math.prod(get_shape(inputs[0]) or []))


def _batched_macs(inputs: list[Any], outputs: list[Any]) -> float:
    """``baddbmm``: batches of matrix products ``(B, L, E) · (B, E, V)``, added to the first input."""
    from fvcore.nn.jit_handles import bmm_flop_jit

    return float(bmm_flop_jit(inputs[1:3], outputs))


#: What fvcore does not count by itself.
_HANDLES: dict[str, Handle] = {
    "aten::scaled_dot_product_attention": _attention_macs,
    "aten::mv": _vector_macs,
    "aten::dot": _vector_macs,
    "aten::baddbmm": _batched_macs,
}


def _sides(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))


class _quiet:
    """Silence fvcore's logger for what the count itself checks."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
