"""The result of a count: rows of layers, and the totals of every mode."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.utils.validation import as_count

_FULL = str(Mode.FULL)
#: ``product``: convolutions, linear layers, matrix products and attention, which published figures include.
#: ``other``: norms, interpolation, average pools and Fourier transforms, which fvcore counts too.
LayerKind = Literal["product", "other"]


class MacsByMode:
    """Comparison of the modes' ``macs``: the cheapest mode comes first, ``full`` last."""

    if TYPE_CHECKING:

        @property
        def macs(self) -> Mapping[str, int]: ...

    @property
    def full_macs(self) -> int:
        """``macs`` of full-mode."""
        return self.macs[_FULL]

    @property
    def low_macs(self) -> int:
        """``macs`` of the cheapest mode."""
        return next(iter(self.macs.values()))

    @property
    def ratio(self) -> float:
        """``low_macs / full_macs``; ``nan`` if full-mode counts nothing."""
        return share(self.low_macs, self.full_macs)

    @property
    def ratios(self) -> dict[str, float]:
        """The ``macs`` of each low mode, divided by full-mode's; ``nan`` if full-mode counts nothing."""
        return shares(self.macs)


@dataclass(frozen=True)
class LayerFlops(MacsByMode):
    """One row of a report: a convolution, or all calls of one operator.

    Attributes:
        name: Path of the convolution in the model, or the operator, as ``all batch_norm``.
        kernels: Kernel size in each mode, as ``3×3``; empty if the row is not a convolution.
        macs: Multiply-adds by name of the mode, cheapest first, ``full`` last: per image, or per step in
            ``FlopReport.weights``.
        kind: ``"product"`` for what published figures include, ``"other"`` for norms and the rest.
    """

    name: str
    kernels: Mapping[str, str]
    macs: Mapping[str, int]
    kind: LayerKind = "product"

    @property
    def full(self) -> str:
        """The kernel size in full-mode; empty if the row is not a convolution."""
        return self.kernels.get(_FULL, "")

    @property
    def low(self) -> str:
        """The kernel size in the cheapest mode; empty if the row is not a convolution."""
        return next(iter(self.kernels.values()), "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        totals = {"full": self.full, "low": self.low, "full_macs": self.full_macs, "low_macs": self.low_macs}
        by_mode = {"kernels": dict(self.kernels), "macs": dict(self.macs)}
        return {"name": self.name, "kind": self.kind, **totals, **by_mode}


@dataclass(frozen=True)
class FlopReport(MacsByMode):
    """Multiply-adds of one forward in each mode, per image; flops are twice as many.

    ``macs``, ``full_macs``, ``low_macs`` and the ratios are those of convolutions, linear layers and matrix products
    (attention included), the figure that papers and model cards quote: 4.09 G for ResNet-50. ``other_macs`` are norms,
    interpolation, average pools and Fourier transforms, as fvcore counts them; ``total_macs`` is the sum of both.

    Work on weights alone (pooling kernels, standardising weights) is done once a step, whatever the batch. It is
    counted separately, in ``weights`` and ``weight_macs``, and ``step_macs`` adds it.

    Attributes:
        modes: Names of the modes, cheapest first, ``full`` last.
        layers: Rows per image, products first; they add up to ``total_macs``.
        free: Operators that count as zero, with the reason.
        weights: Rows per step: work on weights alone.
    """

    modes: tuple[str, ...]
    layers: tuple[LayerFlops, ...]
    free: Mapping[str, str]
    weights: tuple[LayerFlops, ...] = ()

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-adds per image of convolutions, linear layers and matrix products, by mode."""
        return self._sums(layer for layer in self.layers if layer.kind == "product")

    @property
    def other_macs(self) -> dict[str, int]:
        """Multiply-adds per image of norms and the rest, as fvcore counts them, by mode."""
        return self._sums(layer for layer in self.layers if layer.kind == "other")

    @property
    def total_macs(self) -> dict[str, int]:
        """``macs`` plus ``other_macs``, by mode."""
        return self._sums(self.layers)

    @property
    def weight_macs(self) -> dict[str, int]:
        """Multiply-adds per step of work on weights alone, by mode."""
        return self._sums(self.weights)

    @property
    def total_ratios(self) -> dict[str, float]:
        """The ``total_macs`` of each low mode, divided by full-mode's; ``nan`` if full-mode counts nothing."""
        return shares(self.total_macs)

    def step_macs(self, batch_size: int) -> dict[str, int]:
        """Return the multiply-adds of one step's forward, by mode: ``batch_size`` × ``total_macs`` + ``weight_macs``.

        Args:
            batch_size: Images of a step.

        Raises:
            ValueError: ``batch_size`` is not a positive integer.
        """
        images, weights = as_count("batch_size", batch_size, minimum=1), self.weight_macs
        return {mode: images * total + weights[mode] for mode, total in self.total_macs.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
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
    """Names of the modes in the order of a table: full-mode, then the low modes, cheapest first."""
    return [_FULL, *(mode for mode in by_mode if mode != _FULL)]


def share(low: int, full: int) -> float:
    """Return low / full; ``nan`` if full-mode counts nothing."""
    return low / full if full else math.nan


def shares(macs: Mapping[str, int]) -> dict[str, float]:
    """The macs of each low mode, divided by full-mode's; ``nan`` if full-mode counts nothing."""
    return {mode: share(count, macs[_FULL]) for mode, count in macs.items() if mode != _FULL}


def _listed(macs: Mapping[str, int]) -> str:
    return ", ".join(f"{mega(macs[mode])} Mmacs {mode}" for mode in full_first(macs))


def _ratios(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{mode} / full = {ratio:.4f}" for mode, ratio in ratios.items())


def _dicts(layers: Sequence[LayerFlops]) -> list[dict[str, Any]]:
    return [layer.to_dict() for layer in layers]
