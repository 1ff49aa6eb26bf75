"""Do low steps teach what full steps teach? The cosine of both gradients on one batch, whole and per layer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from .pair import ModePair
from .tracing import train_mode

Criterion = Callable[..., Tensor]


@dataclass(frozen=True)
class GradientAgreement:
    """cosine: cos(full gradient, low gradient), in [−1, 1]; norm_ratio: ‖low‖ / ‖full‖; ``nan`` for zero gradients.

    ``layers``: the same for each parameter by name; empty within a layer.
    """

    cosine: float
    norm_ratio: float
    layers: Mapping[str, GradientAgreement] = field(default_factory=dict)


def gradient_agreement(pair: ModePair, batch: tuple[Tensor, Tensor], criterion: Criterion) -> GradientAgreement:
    """Agreement of the full and the low gradient of ``criterion(output, targets)`` on one batch.

    batch: full-size images ``(N, C, *S)`` and whatever ``criterion`` takes as targets. Weights, gradients, running
    statistics, modes and RNG are left as they were; both modes see the same random numbers.
    """
    images, targets = batch
    names, parameters = zip(
        *((name, value) for name, value in pair.model.named_parameters() if value.requires_grad), strict=True
    )
    with _untouched(pair.model), train_mode(pair.model):
        full = _gradient(pair.full, images, targets, criterion, parameters)
        low = _gradient(pair.low, pair.downsample(images), targets, criterion, parameters)
    products = [
        (float((a * b).sum()), float(a.square().sum()), float(b.square().sum()))
        for a, b in ((a.double(), b.double()) for a, b in zip(full, low, strict=True))
    ]
    layers = {name: GradientAgreement(*_compare(*values)) for name, values in zip(names, products, strict=True)}
    totals = [sum(column) for column in zip(*products, strict=True)]
    return GradientAgreement(*_compare(*totals), layers)


def _gradient(
    graph: fx.GraphModule, images: Tensor, targets: Tensor, criterion: Criterion, parameters: tuple[nn.Parameter, ...]
) -> list[Tensor]:
    # One seed for both modes: dropout must not pass for disagreement where its masks have the same shape.
    torch.manual_seed(0)
    gradients = torch.autograd.grad(criterion(graph(images), targets), parameters, allow_unused=True)
    pairs = zip(gradients, parameters, strict=True)
    return [torch.zeros_like(value) if gradient is None else gradient for gradient, value in pairs]


def _compare(product: float, full_square: float, low_square: float) -> tuple[float, float]:
    norm = math.sqrt(full_square) * math.sqrt(low_square)
    cosine = product / norm if norm else math.nan
    return cosine, math.sqrt(low_square / full_square) if full_square else math.nan


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Buffers and RNG come out as they went in."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {buffer.device for buffer, _ in saved if buffer.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in saved:
                    buffer.copy_(value)
