"""What a count says: rows of layers, and the totals of every mode."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.utils.validation import as_count

_FULL = str(Mode.FULL)
#: ``product``: convolutions, linear layers, matrix products and attention, which published figures are made of.
#: ``other``: norms, interpolation, average pools, Fourier transforms, which fvcore counts besides.
LayerKind = Literal["product", "other"]


@dataclass(frozen=True)
class LayerFlops:
    """One row: a convolution, or all of one operator, by the names of the modes: the cheapest first, ``full`` last.

    ``kernels``: as ``3×3``; empty where the row is no convolution. ``macs``: per image, in ``FlopReport.weights`` per
    step. ``kind``: ``"product"`` for what published figures count, ``"other"`` for norms and the rest.
    """

    name: str
    kernels: Mapping[str, str]
    macs: Mapping[str, int]
    kind: LayerKind = "product"

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
        """macs in full-mode."""
        return self.macs[_FULL]

    @property
    def low_macs(self) -> int:
        """macs in the cheapest mode."""
        return next(iter(self.macs.values()))

    @property
    def ratio(self) -> float:
        """low_macs / full_macs; ``nan`` where full-mode counts nothing."""
        return share(self.low_macs, self.full_macs)

    @property
    def ratios(self) -> dict[str, float]:
        """Of each low mode, its macs over full-mode's; ``nan`` where full-mode counts nothing."""
        return shares(self.macs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        totals = {"full": self.full, "low": self.low, "full_macs": self.full_macs, "low_macs": self.low_macs}
        by_mode = {"kernels": dict(self.kernels), "macs": dict(self.macs)}
        return {"name": self.name, "kind": self.kind, **totals, **by_mode}


@dataclass(frozen=True)
class FlopReport:
    """Multiply-adds of one forward in each mode, per image; flops are twice as many.

    ``macs``, ``full_macs``, ``low_macs`` and the ratios are those of convolutions, linear layers and matrix products
    (attention included), the figure that papers and model cards quote: 4.09 G for ResNet-50. ``other_macs`` are norms,
    interpolation, average pools and Fourier transforms, as fvcore counts them; ``total_macs`` is the sum of both.

    What is done to weights alone (kernels are pooled, weights standardised) is done once a step, whatever the batch: it
    stands apart, in ``weights`` and ``weight_macs``, and ``step_macs`` adds it.

    ``modes``: their names, the cheapest first, ``full`` last. ``layers``: rows per image, the products first; they add
    up to ``total_macs``. ``free``: operators that count as zero, with the reason. ``weights``: rows per step.
    """

    modes: tuple[str, ...]
    layers: tuple[LayerFlops, ...]
    free: Mapping[str, str]
    weights: tuple[LayerFlops, ...] = ()

    @property
    def macs(self) -> dict[str, int]:
        """macs per image of convolutions, linear layers and matrix products, by mode's name."""
        return self._sums(layer for layer in self.layers if layer.kind == "product")

    @property
    def other_macs(self) -> dict[str, int]:
        """macs per image of norms and the rest, as fvcore counts them, by mode's name."""
        return self._sums(layer for layer in self.layers if layer.kind == "other")

    @property
    def total_macs(self) -> dict[str, int]:
        """``macs`` and ``other_macs`` together, by mode's name."""
        return self._sums(self.layers)

    @property
    def weight_macs(self) -> dict[str, int]:
        """macs per step of what is done to weights alone, by mode's name."""
        return self._sums(self.weights)

    @property
    def full_macs(self) -> int:
        """``macs`` of full-mode."""
        return self.macs[_FULL]

    @property
    def low_macs(self) -> int:
        """``macs`` of the cheapest mode."""
        return self.macs[self.modes[0]]

    @property
    def ratio(self) -> float:
        """low_macs / full_macs; ``nan`` where full-mode counts nothing."""
        return share(self.low_macs, self.full_macs)

    @property
    def ratios(self) -> dict[str, float]:
        """Of each low mode, its ``macs`` over full-mode's; ``nan`` where full-mode counts nothing."""
        return shares(self.macs)

    @property
    def total_ratios(self) -> dict[str, float]:
        """Of each low mode, its ``total_macs`` over full-mode's; ``nan`` where full-mode counts nothing."""
        return shares(self.total_macs)

    def step_macs(self, batch_size: int) -> dict[str, int]:
        """macs of the forward of one step, by mode's name: ``batch_size`` × ``total_macs`` + ``weight_macs``.

        Raises ``ValueError`` for a batch that is no positive integer.
        """
        images, weights = as_count("batch_size", batch_size, minimum=1), self.weight_macs
        return {mode: images * total + weights[mode] for mode, total in self.total_macs.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        totals = {"full_macs": self.full_macs, "low_macs": self.low_macs, "ratio": self.ratio, "macs": self.macs}
        beside = {"other_macs": self.other_macs, "total_macs": self.total_macs, "weight_macs": self.weight_macs}
        rows = {"layers": _dicts(self.layers), "weights": _dicts(self.weights)}
        return {**totals, **beside, **rows, "free": dict(self.free)}

    def __str__(self) -> str:
        lines = [
            f"{_listed(self.macs)}, {_ratios(self.ratios)} "
            "(per image, forward: convolutions, linear layers and matrix products; flops are 2 × macs)",
            f"with norms and the rest: {_listed(self.total_macs)}, {_ratios(self.total_ratios)}",
        ]
        if any(self.weight_macs.values()):
            lines.append(f"on weights, once a step: {_listed(self.weight_macs)}")
        return "\n".join(lines)

    def _sums(self, layers: Iterable[LayerFlops]) -> dict[str, int]:
        found = tuple(layers)
        return {mode: sum(layer.macs[mode] for layer in found) for mode in self.modes}


def mega(macs: float) -> str:
    """Millions of multiply-adds, as ``4,089.18``."""
    return f"{macs / 1e6:,.2f}"


def full_first(by_mode: Mapping[str, Any]) -> list[str]:
    """Names of modes as they are told: full-mode, then the low ones, the cheapest first."""
    return [_FULL, *(mode for mode in by_mode if mode != _FULL)]


def share(low: int, full: int) -> float:
    """low / full; ``nan`` where full-mode counts nothing."""
    return low / full if full else math.nan


def shares(macs: Mapping[str, int]) -> dict[str, float]:
    """Of each low mode its share of full-mode's macs; ``nan`` where full-mode counts nothing."""
    return {mode: share(count, macs[_FULL]) for mode, count in macs.items() if mode != _FULL}


def _listed(macs: Mapping[str, int]) -> str:
    return ", ".join(f"{mega(macs[mode])} Mmacs {mode}" for mode in full_first(macs))


def _ratios(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{mode} / full = {ratio:.4f}" for mode, ratio in ratios.items())


def _dicts(layers: Sequence[LayerFlops]) -> list[dict[str, Any]]:
    return [layer.to_dict() for layer in layers]
