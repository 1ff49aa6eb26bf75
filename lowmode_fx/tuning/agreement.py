"""Gradient agreement: the cosine of the full and the low gradient on the same batches, whole and per parameter."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lowmode_fx.lowering import networks
from lowmode_fx.lowering.ladder import Ladder, as_ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.tuning.batches import Batch, Call, read_batches
from lowmode_fx.utils.losses import as_criterion, as_loss
from passes.preserve import preserve_state, train_mode

Criterion = Callable[..., Tensor]


@dataclass(frozen=True)
class GradientAgreement:
    """Agreement of the full and the low gradient, as means over ``batches`` batches.

    Attributes:
        cosine: cos(full gradient, low gradient), in [−1, 1]; ``nan`` for zero gradients.
        norm_ratio: ‖low‖ / ‖full‖; ``nan`` for zero gradients.
        ceiling: Cosine of the full gradients of both halves of a batch, the limit that noise alone sets; ``nan`` for
            batches with fewer than four images.
        batches: Number of batches.
        cosine_error: Standard error of ``cosine``; ``nan`` for one batch.
        norm_ratio_error: Standard error of ``norm_ratio``; ``nan`` for one batch.
        ceiling_error: Standard error of ``ceiling``; ``nan`` for one batch.
        layers: The same for each parameter by name; empty within a layer.
    """

    cosine: float
    norm_ratio: float
    layers: Mapping[str, GradientAgreement] = field(default_factory=dict)
    ceiling: float = math.nan
    cosine_error: float = math.nan
    norm_ratio_error: float = math.nan
    ceiling_error: float = math.nan
    batches: int = 1


def gradient_agreement(
    ladder: Ladder, batch: Batch | Iterable[Batch], criterion: Criterion, mode: Mode | None = None
) -> GradientAgreement:
    """Measure how well the low gradient of ``criterion(output, targets)`` agrees with the full gradient.

    Weights, gradients, running statistics, train or eval modes and random number generators are left as they were; both
    modes see the same random numbers.

    Args:
        ladder: The pair or ladder.
        batch: One full-size batch, or an iterable of several: ``(inputs, targets)``, where ``inputs`` is the model's
            input (images ``(N, C, *S)``, a tuple, or a mapping of keywords); or a mapping of all keywords if
            ``forward`` computes the loss; the criterion then gets ``None`` as targets, as in ``lambda output, _:
            output["loss"]``.
        criterion: Returns the loss, a scalar.
        mode: A low mode of the ladder, by default the cheapest.

    Returns:
        The agreement, whole and per parameter.

    Raises:
        ValueError: There is no batch, or one that the modes were not built for, or the loss is not a scalar.
        TypeError: ``criterion`` is no function, or returns no tensor.
    """
    as_criterion(criterion)
    as_ladder(ladder)
    batches = read_batches(batch, ladder.inputs, ladder.model)
    full, low = (networks.network(ladder, each, downsample=True) for each in (Mode.FULL, mode or ladder.modes[0]))
    names = [name for name, value in ladder.model.named_parameters() if value.requires_grad]
    with train_mode(ladder.model):
        rows = [_compare_modes(full, low, each, criterion, ladder.model) for each in batches]
    whole = [agreements[0] for agreements in rows]
    layers = {name: _mean([agreements[1][index] for agreements in rows]) for index, name in enumerate(names)}
    return _mean(whole, layers)


def batch_loss(
    network: networks.Network, batch: Call, criterion: Criterion, autocast: torch.dtype | None = None
) -> Tensor:
    """``criterion(output, targets)``, under autocast to a dtype; ``None``: as the caller has it."""
    with contextlib.nullcontext() if autocast is None else torch.autocast(batch.device.type, dtype=autocast):
        return as_loss(criterion(batch.of(network), batch.targets))


def mode_gradient(
    network: networks.Network, batch: Call, criterion: Criterion, model: nn.Module, autocast: torch.dtype | None = None
) -> list[Tensor]:
    """The gradient of ``criterion(output, targets)`` for each trainable parameter of ``model``, in order.

    Call it inside ``train_mode``. The model is left as it was, so that every gradient is computed in the same state.
    """
    with preserve_state(model, parameters=True):
        # One seed for both modes: dropout masks of the same shape must not count as disagreement.
        torch.manual_seed(0)
        return step_gradient(network, batch, criterion, model, autocast)


def step_gradient(
    network: networks.Network, batch: Call, criterion: Criterion, model: nn.Module, autocast: torch.dtype | None = None
) -> list[Tensor]:
    """The same as a training step computes it, which may change the model's buffers and attributes."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    loss = batch_loss(network, batch, criterion, autocast)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    network.settle()
    pairs = zip(gradients, parameters, strict=True)
    return [torch.zeros_like(value) if gradient is None else gradient for gradient, value in pairs]


def _compare_modes(
    full: networks.Network, low: networks.Network, batch: Call, criterion: Criterion, model: nn.Module
) -> tuple[GradientAgreement, list[GradientAgreement]]:
    """Whole and per parameter, on one batch."""
    ours, theirs = (mode_gradient(network, batch, criterion, model) for network in (full, low))
    halves = [mode_gradient(full, half, criterion, model) for half in batch.halves()]
    triples = [_products(a, b) for a, b in zip(ours, theirs, strict=True)]
    ceilings = [_products(a, b) for a, b in zip(*halves, strict=True)] if halves else [(math.nan,) * 3] * len(triples)
    layers = [_agreement(products, ceiling) for products, ceiling in zip(triples, ceilings, strict=True)]
    return _agreement(_sums(triples), _sums(ceilings)), layers


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
    """Mean and standard error of the values that are not NaN."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return (known[0] if known else math.nan), math.nan
    return statistics.fmean(known), statistics.stdev(known) / math.sqrt(len(known))
