"""Backward passes of the user's own: custom functions and hooks on tensors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from semantics.habit import Kind, weighted
from semantics.skeleton import CHANNELS, Small, conv

KIND = Kind("backwards", r"\bautograd|Function\b|own backward|custom backward|hook")


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return torch.sign(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (weight,) = ctx.saved_tensors
        return grad * (weight.abs() < 1)


@KIND.habit(compiled=True)
class BinaryWeights(Small):
    """A sign whose backward lets the gradient through."""

    def __init__(self) -> None:
        super().__init__()
        self.binary = conv()

    def between(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, Sign.apply(self.binary.weight), self.binary.bias, padding=1)


@KIND.habit()
class BinaryActivations(Small):
    def between(self, maps: Tensor) -> Tensor:
        return Sign.apply(maps - 0.4)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return maps.view_as(maps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grad, None


def strength_by_step(model: nn.Module, step: int) -> None:
    model.strength = 0.5 * (step + 1)


@KIND.habit(each_step=strength_by_step, compiled=True)
class GradientReversal(Small):
    """Domain adaptation: a second head trains against the trunk, more so at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.domain, self.strength = nn.Linear(CHANNELS, 2), 1.0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.maps(images).mean((2, 3))
        return self.head(features), self.domain(Reversed.apply(features, self.strength))


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.save_for_backward(maps)
        return maps * torch.sigmoid(maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        gate = torch.sigmoid(maps)
        return grad * gate * (1 + maps * (1 - gate))


@KIND.habit(compiled=True)
class MemoryEfficientSwish(Small):
    def between(self, maps: Tensor) -> Tensor:
        return Swish.apply(maps)


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        return maps.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clamp(-1e-3, 1e-3)


@KIND.habit(compiled=True)
class ClippedGradient(Small):
    def between(self, maps: Tensor) -> Tensor:
        return Clipped.apply(self.body(maps))


class ConvWithOwnBackward(torch.autograd.Function):
    """A convolution that halves its weight's gradient: both passes are written for the whole kernel."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return F.conv2d(maps, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        maps, weight = ctx.saved_tensors
        of_maps = torch.nn.grad.conv2d_input(maps.shape, weight, grad, padding=1)
        return of_maps, torch.nn.grad.conv2d_weight(maps, weight.shape, grad, padding=1) / 2


@KIND.habit(compiled=True)
class ConvolutionInsideAFunction(Small):
    def __init__(self) -> None:
        super().__init__()
        self.inner = conv()

    def between(self, maps: Tensor) -> Tensor:
        return ConvWithOwnBackward.apply(maps, self.inner.weight)


@KIND.habit()
class StraightThroughByDetach(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps + (torch.round(maps * 4) / 4 - maps).detach()


def doubled(grad: Tensor) -> Tensor:
    return grad * 2


@KIND.habit(compiled=True)
class GradientDoubledByHook(Small):
    def between(self, maps: Tensor) -> Tensor:
        if maps.requires_grad:
            maps.register_hook(doubled)
        return maps


@KIND.habit(compiled=True)
class GradientClippedByHook(Small):
    def between(self, maps: Tensor) -> Tensor:
        if maps.requires_grad:
            maps.register_hook(lambda grad: grad.clamp(-1e-4, 1e-4))
        return maps


@KIND.habit()
class GradientKeptByHook(Small):
    """Grad-CAM: the gradient of a map is left on the model."""

    def __init__(self) -> None:
        super().__init__()
        self.gradient: Tensor | None = None

    def keep(self, grad: Tensor) -> None:
        self.gradient = grad

    def between(self, maps: Tensor) -> Tensor:
        if maps.requires_grad:
            maps.register_hook(self.keep)
        return maps


def hook_on_the_weight(model: nn.Module, step: int) -> None:
    if step == 1:
        model.body.weight.register_hook(doubled)


@KIND.habit(each_step=hook_on_the_weight, compiled=True)
class HookOnAParameter(Small):
    """Put there before the build on one parameter, after it on another."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight.register_hook(doubled)


def with_penalty(model: nn.Module, outputs: Any) -> Tensor:
    logits, images = outputs
    (slope,) = torch.autograd.grad(logits.square().sum(), images, create_graph=True)
    return weighted(model, logits) + slope.square().mean()


@KIND.habit(loss=with_penalty, compiled=True)
class GradientPenalty(Small):
    """A discriminator's: the loss differentiates the outputs by the images, twice in all."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.detach().requires_grad_()
        return self.head(torch.tanh(self.body(torch.tanh(self.stem(images)))).mean((2, 3))), images
