"""Rows of a report, which add up to fvcore's count: one per convolution, and one for each other operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lowmode_fx.counting.once_a_step import work_on_weights
from lowmode_fx.counting.operators import BESIDE_OPS
from lowmode_fx.counting.report import LayerFlops
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from passes.match import ConvSite, conv_sites
from passes.shapes import node_shape
from passes.wording import sides

_FULL = str(Mode.FULL)
_UNTRACED = "convolutions inside untraced modules"
#: By mode, then by operator.
ByMode = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Counts:
    """macs by mode and operator: ``batch`` is the work for a batch of ``images``, ``weights`` the work once a step."""

    images: int
    batch: ByMode = field(default_factory=dict)
    weights: ByMode = field(default_factory=dict)

    def add(self, mode: str, whole: Mapping[str, float], weights: Mapping[str, float]) -> None:
        """Add the count of a mode's whole graph, given the count of its part that runs on weights alone."""
        self.batch[mode] = {name: count - weights.get(name, 0) for name, count in whole.items()}
        self.weights[mode] = dict(weights)


def rows(ladder: Ladder, counts: Counts) -> tuple[tuple[LayerFlops, ...], tuple[LayerFlops, ...]]:
    """Rows per image, products before norms and the rest; and rows per step."""
    apart = work_on_weights(ladder)
    by_mode = {str(mode): conv_sites(ladder.graph(mode)) for mode in ladder.modes}
    sites = [dict(zip(by_mode, each, strict=True)) for each in zip(*by_mode.values(), strict=True)]
    per_image = [site for site in sites if site[_FULL].node.name not in apart]
    per_step = [site for site in sites if site[_FULL].node.name in apart]
    layers = [
        *_conv_rows(per_image, counts.batch, counts.images, _UNTRACED),
        *_operator_rows(counts.batch, counts.images),
    ]
    weights = (*_conv_rows(per_step, counts.weights, 1, "all conv"), *_operator_rows(counts.weights, 1))
    # Convolutions in order, then the larger rows first: ``sorted`` keeps it.
    return tuple(sorted(layers, key=lambda layer: layer.kind == "other")), weights


def _conv_rows(sites: Iterable[Mapping[str, ConvSite]], counts: ByMode, share: int, beyond: str) -> list[LayerFlops]:
    """One row per convolution; what fvcore counted beyond them is a row named ``beyond``."""
    found = []
    for site in sites:
        kernels = {mode: sides(each.kernel) for mode, each in site.items()}
        macs = {mode: _conv_macs(each) // share for mode, each in site.items()}
        found.append(LayerFlops(site[_FULL].name, kernels, macs))
    rest = {
        mode: round(by_operator.get("conv", 0) / share) - sum(row.macs[mode] for row in found)
        for mode, by_operator in _cheapest_first(counts).items()
    }
    assert min(rest.values()) >= 0, "the layers count more macs than fvcore does"
    return found + ([LayerFlops(beyond, {}, rest)] if any(rest.values()) else [])


def _conv_macs(site: ConvSite) -> int:
    from fvcore.nn.jit_handles import conv_flop_count

    shape, out = list(node_shape(site.input)), list(node_shape(site.node))
    return int(conv_flop_count(shape, list(site.weight_shape), out, transposed=site.transposed))


def _operator_rows(counts: ByMode, share: int) -> list[LayerFlops]:
    names = {name for by_operator in counts.values() for name in by_operator if name != "conv"}
    found = []
    for name in sorted(sorted(names), key=lambda name: -counts[_FULL].get(name, 0)):
        macs = {mode: round(each.get(name, 0) / share) for mode, each in _cheapest_first(counts).items()}
        if any(macs.values()):
            found.append(LayerFlops(f"all {name}", {}, macs, "other" if name in BESIDE_OPS else "product"))
    return found


def _cheapest_first(counts: ByMode) -> ByMode:
    """The counts in the order of a ladder, full-mode last; they were made with full-mode first."""
    return {**{mode: each for mode, each in counts.items() if mode != _FULL}, _FULL: counts[_FULL]}
