"""The gain of a low step: the tuner's model of training progress. Pure arithmetic on gradients.

Let ḡ be the gradient of the loss in full-mode and d the (random) gradient of a step in some mode. With a curvature h, a
step of length η along d lowers the loss by η ḡ·E[d] − η² h E‖d‖² / 2 in expectation. The best η is ḡ·E[d] / (h E‖d‖²);
with it the loss falls by (ḡ·E[d])² / (2 h E‖d‖²). Relative to a full step, for which E[d] = ḡ, the curvature cancels:

    gain   = (ḡ·l̄)² / E‖l‖²  :  ‖ḡ‖⁴ / E‖f‖²        number of full steps that a low step is equivalent to
    weight = ḡ·l̄ / E‖l‖²     :  ‖ḡ‖² / E‖f‖²        factor of its gradient, for the full step's η

f and l are the gradients of single batches in full- and low-mode, l̄ the mean of l. An optimizer with momentum β steps
along an average of about (1 + β) / (1 − β) batches, which reduces their noise: E‖d‖² = ‖d̄‖² + (E‖d‖² − ‖d̄‖²) (1 − β)
/ (1 + β). The products of means are estimated without bias from different batches, i ≠ j.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepProgress:
    """``gain``: equivalent full steps of a low step, 0 if it points the wrong way; ``weight``: factor of its gradient.

    ``gain_error`` and ``weight_error`` are standard errors, by leaving out one batch at a time (jackknife).
    """

    gain: float
    weight: float
    gain_error: float = math.nan
    weight_error: float = math.nan


@dataclass(frozen=True)
class GradientProducts:
    """All inner products of n batches' gradients: ``full_full``, ``full_low``, ``low_low``, each (n, n)."""

    full_full: Tensor
    full_low: Tensor
    low_low: Tensor

    def without(self, batch: int) -> GradientProducts:
        """The products of the other batches."""
        kept = [index for index in range(len(self.full_full)) if index != batch]
        parts = (products[kept][:, kept] for products in (self.full_full, self.full_low, self.low_low))
        return GradientProducts(*parts)


def gradient_products(full: Sequence[Tensor], low: Sequence[Tensor]) -> GradientProducts:
    """Inner products of the flat gradients ``(P,)`` of n batches, in either mode; each result is (n, n) float64."""
    return GradientProducts(_inner(full, full), _inner(full, low), _inner(low, low))


def step_progress(products: GradientProducts, momentum: float = 0.9) -> StepProgress:
    """Gain and weight of a low step, by the model above, with standard errors from three batches on.

    ``momentum``: β of the optimizer, in [0, 1). Raises ``ValueError`` for fewer than two batches.
    """
    count = len(products.full_full)
    if count < 2:
        raise ValueError(f"{count} batch is too few to estimate the noise of gradients; give at least two")
    gain, weight = _gain_and_weight(products, momentum)
    if count < 3:
        return StepProgress(gain, weight)
    others = [_gain_and_weight(products.without(batch), momentum) for batch in range(count)]
    errors = (_jackknife_error(values) for values in zip(*others, strict=True))
    return StepProgress(gain, weight, *errors)


def _gain_and_weight(products: GradientProducts, momentum: float) -> tuple[float, float]:
    true_square, along = _off_diagonal(products.full_full), _off_diagonal(products.full_low)
    full_square = _step_square(products.full_full, momentum)
    low_square = _step_square(products.low_low, momentum)
    if not (true_square > 0 and along > 0 and low_square > 0):
        return 0.0, 0.0  # noise dominates the full gradient, or the low one points the wrong way or is NaN
    return along**2 / low_square / (true_square**2 / full_square), along / low_square / (true_square / full_square)


def _step_square(products: Tensor, momentum: float) -> float:
    """E‖d‖² of the average that the optimizer with momentum steps along."""
    single, mean = float(products.diagonal().mean()), max(_off_diagonal(products), 0.0)
    return mean + max(single - mean, 0.0) * (1 - momentum) / (1 + momentum)


def _off_diagonal(products: Tensor) -> float:
    count = len(products)
    return float((products.sum() - products.diagonal().sum()) / (count * (count - 1)))


def _inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    # Pair by pair: a matrix of all gradients would double their memory.
    rows = [[torch.dot(a, b).double().item() for b in second] for a in first]
    return torch.tensor(rows, dtype=torch.float64)


def _jackknife_error(values: Sequence[float]) -> float:
    count, mean = len(values), math.fsum(values) / len(values)
    return math.sqrt((count - 1) / count * math.fsum((value - mean) ** 2 for value in values))
