"""Weights that are worked out or written in ``forward``: renormed, pruned, parametrised, tied, generated."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from semantics.habit import Kind
from semantics.skeleton import CHANNELS, Small, conv, sequence

KIND = Kind("weights", r"weight|parametri|prun|spectral|\.data|in place")


@KIND.habit(compiled=True)
class RenormedThroughData(Small):
    """The weight itself is brought to norm 1 in each forward."""

    def between(self, maps: Tensor) -> Tensor:
        self.body.weight.data = F.normalize(self.body.weight.data, dim=1)
        return maps


@KIND.habit(compiled=True)
class RenormedByCopy(Small):
    def between(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            self.body.weight.copy_(self.body.weight.renorm(2, 0, 0.5))
        return maps


@KIND.habit()
class ClampedWeights(Small):
    """A critic's, clipped before use."""

    def between(self, maps: Tensor) -> Tensor:
        for parameter in self.parameters():
            parameter.data.clamp_(-0.2, 0.2)
        return maps


@KIND.habit(compiled=True)
def weight_norm() -> nn.Module:
    return sequence(parametrizations.weight_norm(conv()))


@KIND.habit()
def old_weight_norm() -> nn.Module:
    """The form that works by hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sequence(torch.nn.utils.weight_norm(conv()))


@KIND.habit(compiled=True)
def spectral_norm() -> nn.Module:
    """Its vectors are buffers, which each train forward moves."""
    return sequence(parametrizations.spectral_norm(conv()))


@KIND.habit(compiled=True)
def old_spectral_norm() -> nn.Module:
    return sequence(torch.nn.utils.spectral_norm(conv()), nn.ReLU(), torch.nn.utils.spectral_norm(conv()))


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(-1)) / 2


@KIND.habit()
def own_parametrization() -> nn.Module:
    model = Small()
    parametrize.register_parametrization(model.body, "weight", Symmetric())
    return model


def parametrize_later(model: nn.Module, step: int) -> None:
    if step == 1:
        parametrize.register_parametrization(model.body, "weight", Symmetric())


@KIND.habit(
    each_step=parametrize_later, cause=r"build (the|a|another) pair|again|anew|changed since|parametri", compiled=True
)
def parametrized_after_the_build() -> nn.Module:
    return Small()


@KIND.habit()
def pruned() -> nn.Module:
    model = Small()
    prune.l1_unstructured(model.body, "weight", 0.5)
    return model


def prune_later(model: nn.Module, step: int) -> None:
    if step == 1:
        prune.l1_unstructured(model.body, "weight", 0.5)


AGAIN = r"build (the|a|another) pair|pair .*(again|anew)|changed since|prun"


@KIND.habit(each_step=prune_later, cause=AGAIN, compiled=True)
def pruned_after_the_build() -> nn.Module:
    return Small()


def make_permanent(model: nn.Module, step: int) -> None:
    if step == 1:
        prune.remove(model.body, "weight")


@KIND.habit(each_step=make_permanent, cause=AGAIN)
def pruning_made_permanent() -> nn.Module:
    model = Small()
    prune.l1_unstructured(model.body, "weight", 0.5)
    return model


def prune_more(model: nn.Module, step: int) -> None:
    if step:
        prune.l1_unstructured(model.body, "weight", 0.2)


@KIND.habit(each_step=prune_more, cause=AGAIN)
def pruned_step_by_step() -> nn.Module:
    model = Small()
    prune.l1_unstructured(model.body, "weight", 0.2)
    return model


@KIND.habit()
def tied_layers() -> nn.Module:
    """Two layers share one weight."""
    first, second = conv(), conv()
    second.weight = first.weight
    return sequence(first, nn.Tanh(), second)


@KIND.habit()
class CalledTwice(Small):
    """One layer, two places."""

    def between(self, maps: Tensor) -> Tensor:
        return torch.tanh(self.body(torch.tanh(self.body(maps))))


@KIND.habit()
class TransposedOfItself(Small):
    """A decoder's weight is the encoder's."""

    def between(self, maps: Tensor) -> Tensor:
        return F.conv_transpose2d(torch.tanh(self.body(maps)), self.body.weight, padding=1)


@KIND.habit()
class EqualisedRate(Small):
    """The weight is scaled by its fan where it is used."""

    def between(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, self.body.weight * (CHANNELS * 9) ** -0.5, self.body.bias, padding=1)


@KIND.habit(compiled=True)
class StandardisedWeights(Small):
    def between(self, maps: Tensor) -> Tensor:
        weight = self.body.weight
        std, mean = torch.std_mean(weight, (1, 2, 3), keepdim=True)
        return F.conv2d(maps, (weight - mean) / (std + 1e-5), self.body.bias, padding=1)


@KIND.habit()
class ModulatedConvolution(Small):
    """StyleGAN's: a kernel for each image, all images as groups of one."""

    def __init__(self) -> None:
        super().__init__()
        self.style = nn.Linear(CHANNELS, CHANNELS)

    def between(self, maps: Tensor) -> Tensor:
        batch, channels, height, width = maps.shape
        weight = self.body.weight[None] * self.style(maps.mean((2, 3)))[:, None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-5)
        weight = weight.reshape(batch * channels, channels, 3, 3)
        return F.conv2d(maps.reshape(1, -1, height, width), weight, padding=1, groups=batch).view(maps.shape)


@KIND.habit(compiled=True)
class DynamicConvolution(Small):
    """Attention over several kernels, by the batch's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.attention = (
            nn.Parameter(torch.randn(3, CHANNELS, CHANNELS, 3, 3) * 0.1),
            nn.Linear(CHANNELS, 3),
        )

    def between(self, maps: Tensor) -> Tensor:
        shares = self.attention(maps.mean((0, 2, 3))).softmax(0)
        return F.conv2d(maps, torch.einsum("k,koihw->oihw", shares, self.kernels), padding=1)


@KIND.habit()
class LowRankUpdate(Small):
    """A frozen kernel and a trained update of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.base = conv().requires_grad_(False)
        self.down, self.up = (
            nn.Parameter(torch.randn(2, CHANNELS * 9) * 0.1),
            nn.Parameter(torch.randn(CHANNELS, 2) * 0.1),
        )

    def between(self, maps: Tensor) -> Tensor:
        weight = self.base.weight + (self.up @ self.down).view_as(self.base.weight)
        return F.conv2d(maps, weight, self.base.bias, padding=1)


@KIND.habit()
class GeneratedKernel(Small):
    """A small network writes the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.writer, self.code = nn.Linear(4, CHANNELS * CHANNELS * 9), nn.Parameter(torch.randn(4))

    def between(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, self.writer(self.code).view(CHANNELS, CHANNELS, 3, 3) * 0.3, padding=1)


@KIND.habit()
class MaskedWeight(Small):
    """A causal convolution: a buffer blanks taps."""

    def __init__(self) -> None:
        super().__init__()
        mask = torch.ones(3, 3)
        mask[1, 2:], mask[2] = 0, 0
        self.register_buffer("mask", mask)

    def between(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, self.body.weight * self.mask, self.body.bias, padding=1)


@KIND.habit()
class MaskedInPlace(Small):
    """The same, the mask written into the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(CHANNELS, CHANNELS, 3, 3).tril())

    def between(self, maps: Tensor) -> Tensor:
        self.body.weight.data *= self.mask
        return maps


class Rounded(nn.Conv2d):
    """Weights on a grid, by torch's fake quantisation."""

    def forward(self, maps: Tensor) -> Tensor:
        scale = float(self.weight.detach().abs().max()) / 127
        weight = torch.fake_quantize_per_tensor_affine(self.weight, scale, 0, -128, 127)
        return F.conv2d(maps, weight, self.bias, padding=1)


@KIND.habit()
class FakeQuantised(Small):
    def __init__(self) -> None:
        super().__init__()
        self.body = Rounded(CHANNELS, CHANNELS, 3)


@KIND.habit()
class ParametersInAList(Small):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList(torch.randn(CHANNELS, 3, 3, 3) * 0.1 for _ in range(2))

    def between(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, torch.cat(list(self.parts), 1), padding=1)


@KIND.habit()
class AveragedWeights(Small):
    """Weights averaged over steps are kept in buffers, and half of the batch runs by them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", self.body.weight.detach().clone())

    def between(self, maps: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.average.lerp_(self.body.weight, 0.5)
        return F.conv2d(maps, 0.5 * self.average + 0.5 * self.body.weight, padding=1)
