"""Do low steps teach what full steps teach? The cosine of both gradients on the same batches, whole and per layer."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lowmode_fx.lowering.ladder import ModePair
from passes.preserve import preserve_state, train_mode

Criterion = Callable[..., Tensor]
#: Full-size images ``(N, C, *S)`` and whatever the criterion takes as targets.
Batch = tuple[Tensor, Any]


@dataclass(frozen=True)
class GradientAgreement:
    """cosine: cos(full gradient, low gradient), in [−1, 1]; norm_ratio: ‖low‖ / ‖full‖; ``nan`` for zero gradients.

    Means over ``batches`` batches, with their standard errors (``nan`` for one batch). ``ceiling``: the cosine of the
    full gradients of both halves of a batch, what noise alone leaves of 1 (``nan`` for batches below four images).
    ``layers``: the same for each parameter by name; empty within a layer.
    """

    cosine: float
    norm_ratio: float
    layers: Mapping[str, GradientAgreement] = field(default_factory=dict)
    ceiling: float = math.nan
    cosine_error: float = math.nan
    norm_ratio_error: float = math.nan
    ceiling_error: float = math.nan
    batches: int = 1


def gradient_agreement(pair: ModePair, batch: Batch | Iterable[Batch], criterion: Criterion) -> GradientAgreement:
    """Agreement of the full and the low gradient of ``criterion(output, targets)``, on one batch or over several.

    batch: full-size images ``(N, C, *S)`` and their targets, or an iterable of such batches. Weights, gradients,
    running statistics, modes and RNG are left as they were; both modes see the same random numbers.

    Raises ``ValueError`` where there is no batch.
    """
    batches = as_batches(batch)
    names = [name for name, value in pair.model.named_parameters() if value.requires_grad]
    with preserve_state(pair.model, parameters=True), train_mode(pair.model):
        rows = [_compare_modes(pair, images, targets, criterion) for images, targets in batches]
    whole = [agreements[0] for agreements in rows]
    layers = {name: _mean([agreements[1][index] for agreements in rows]) for index, name in enumerate(names)}
    return _mean(whole, layers)


def as_batches(batch: Any) -> list[Batch]:
    """One batch as a list of one, several as a list. Raises ``ValueError`` where there is none."""
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        return [(batch[0], batch[1])]
    batches = [(images, targets) for images, targets in batch]
    if not batches:
        raise ValueError("there is no batch; give (images, targets), or several of them")
    return batches


def batch_loss(
    network: nn.Module, images: Tensor, targets: Any, criterion: Criterion, autocast: torch.dtype | None = None
) -> Tensor:
    """``criterion(network(images), targets)``, under autocast to that type; ``None``: as the caller has it."""
    with contextlib.nullcontext() if autocast is None else torch.autocast(images.device.type, dtype=autocast):
        return criterion(network(images), targets)


def mode_gradient(
    network: nn.Module,
    images: Tensor,
    targets: Any,
    criterion: Criterion,
    model: nn.Module,
    autocast: torch.dtype | None = None,
) -> list[Tensor]:
    """The gradient of ``criterion(output, targets)`` for each trainable parameter of ``model``, in their order.

    To be called inside ``preserve_state`` and ``train_mode``.
    """
    # One seed for both modes: dropout must not pass for disagreement where its masks have the same shape.
    torch.manual_seed(0)
    parameters = [value for value in model.parameters() if value.requires_grad]
    loss = batch_loss(network, images, targets, criterion, autocast)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(gradients, parameters, strict=True)
    return [torch.zeros_like(value) if gradient is None else gradient for gradient, value in pairs]


def _compare_modes(
    pair: ModePair, images: Tensor, targets: Any, criterion: Criterion
) -> tuple[GradientAgreement, list[GradientAgreement]]:
    """Whole and per parameter, on one batch."""
    full = mode_gradient(pair.full, images, targets, criterion, pair.model)
    low = mode_gradient(pair.low, pair.downsample(images), targets, criterion, pair.model)
    halves = _halves(pair, images, targets, criterion)
    triples = [_products(a, b) for a, b in zip(full, low, strict=True)]
    ceilings = [_products(a, b) for a, b in zip(*halves, strict=True)] if halves else [(math.nan,) * 3] * len(triples)
    layers = [_agreement(products, ceiling) for products, ceiling in zip(triples, ceilings, strict=True)]
    return _agreement(_sums(triples), _sums(ceilings)), layers


def _halves(pair: ModePair, images: Tensor, targets: Any, criterion: Criterion) -> list[list[Tensor]]:
    count = len(images) // 2
    if count < 2 or not isinstance(targets, Tensor) or len(targets) != len(images):
        return []
    return [
        mode_gradient(pair.full, images[part], targets[part], criterion, pair.model)
        for part in (slice(count), slice(count, 2 * count))
    ]


def _products(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    a, b = first.double(), second.double()
    return float((a * b).sum()), float(a.square().sum()), float(b.square().sum())


def _sums(products: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(sum(column) for column in zip(*products, strict=True))


def _agreement(products: Sequence[float], ceiling: Sequence[float]) -> GradientAgreement:
    _, full, low = products
    return GradientAgreement(_cosine(products), math.sqrt(low / full) if full else math.nan, ceiling=_cosine(ceiling))


def _cosine(products: Sequence[float]) -> float:
    product, first, second = products
    norm = math.sqrt(first) * math.sqrt(second)
    return product / norm if norm else math.nan


def _mean(
    agreements: Sequence[GradientAgreement], layers: Mapping[str, GradientAgreement] | None = None
) -> GradientAgreement:
    cosine, norm_ratio, ceiling = (
        _with_error([getattr(each, name) for each in agreements]) for name in ("cosine", "norm_ratio", "ceiling")
    )
    return GradientAgreement(
        cosine[0],
        norm_ratio[0],
        layers or {},
        ceiling[0],
        cosine_error=cosine[1],
        norm_ratio_error=norm_ratio[1],
        ceiling_error=ceiling[1],
        batches=len(agreements),
    )


def _with_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the values that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return (known[0] if known else math.nan), math.nan
    return statistics.fmean(known), statistics.stdev(known) / math.sqrt(len(known))
