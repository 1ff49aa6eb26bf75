"""Code that no tracer follows, and operators that few models call."""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from semantics.habit import Kind
from semantics.skeleton import CHANNELS, Small, conv

KIND = Kind("foreign", r"script|numpy|functional|vmap|compil|deform|complex")


@KIND.habit()
class NumpyOnTheSide(Small):
    """A statistic worked out in numpy, put back as a number."""

    def between(self, maps: Tensor) -> Tensor:
        spread = float(np.percentile(maps.detach().numpy(), 90))
        return maps / (spread + 1)


@KIND.habit()
class NumpyMask(Small):
    """A mask that numpy makes of the maps."""

    def between(self, maps: Tensor) -> Tensor:
        array = maps.detach().cpu().numpy()
        mask = (array > array.mean(axis=(2, 3), keepdims=True)).astype(np.float32)
        return maps * torch.from_numpy(mask)


@KIND.habit(compiled=True)
class ScriptedPart(Small):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.scripted = torch.jit.script(nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Tanh()))

    def between(self, maps: Tensor) -> Tensor:
        return self.scripted(maps)


@KIND.habit(compiled=True)
class ScriptedNorm(Small):
    """Its buffers can't be replaced by copies for a low step."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.scripted = torch.jit.script(nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS)))

    def between(self, maps: Tensor) -> Tensor:
        return self.scripted(maps)


@KIND.habit(compiled=True)
class CompilerDisabled(Small):
    @torch.compiler.disable
    def between(self, maps: Tensor) -> Tensor:
        return torch.tanh(self.body(maps))


@KIND.habit()
class MappedOverImages(Small):
    """``torch.func.vmap`` over the batch."""

    def maps(self, images: Tensor) -> Tensor:
        maps = super().maps(images)
        weights = torch.linspace(0.5, 1.5, maps.shape[0])
        return torch.func.vmap(lambda image, weight: torch.tanh(image) * weight)(maps, weights)


@KIND.habit(compiled=True)
class FunctionalCall(Small):
    """A layer called with weights of another making."""

    def between(self, maps: Tensor) -> Tensor:
        values = {name: value * 0.5 for name, value in self.body.named_parameters()}
        return torch.tanh(torch.func.functional_call(self.body, values, (maps,)))


@KIND.habit()
class FourierLayer(Small):
    """A product of spectra, with complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = nn.Parameter(torch.randn(CHANNELS, 4, 3, 2) * 0.1)

    def between(self, maps: Tensor) -> Tensor:
        found = torch.fft.rfft2(maps, norm="ortho")
        kept = found[:, :, :4, :3] * torch.view_as_complex(self.spectrum)
        whole = torch.zeros_like(found)
        whole[:, :, :4, :3] = kept
        return maps + torch.fft.irfft2(whole, s=maps.shape[-2:], norm="ortho")


@KIND.habit(compiled=True)
class Deformable(Small):
    """``DeformConv2d`` stays whole, and its offsets' convolution is pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(CHANNELS, 18, 3, padding=1)
        self.deform = torchvision.ops.DeformConv2d(CHANNELS, CHANNELS, 3, padding=1)

    def between(self, maps: Tensor) -> Tensor:
        return self.deform(maps, 0.1 * self.offsets(maps))


@KIND.habit()
class GeneralConvolution(Small):
    """``torch.convolution``, the one operator behind all of them."""

    def between(self, maps: Tensor) -> Tensor:
        return torch.convolution(maps, self.body.weight, self.body.bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)


@KIND.habit()
class ConvolutionByKeywords(Small):
    def between(self, maps: Tensor) -> Tensor:
        return F.conv2d(input=maps, weight=self.body.weight, bias=self.body.bias, stride=1, padding="same", dilation=2)


@KIND.habit()
class ConvolutionThroughAModule(Small):
    """``forward`` of a layer is called itself, past its hooks, and a convolution's private helper."""

    def between(self, maps: Tensor) -> Tensor:
        maps = torch.tanh(self.body.forward(maps))
        return self.body._conv_forward(maps, self.body.weight, self.body.bias)


@KIND.habit(cause=r"(?i)\blazy.*\b(once|first|dry run|forward|initiali[sz]e)", checks=("full",))
def lazy_layers() -> nn.Module:
    """Not run yet: there is nothing to build a pair of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = nn.LazyConv2d(4, 3, padding=1), nn.ReLU(), nn.LazyConv2d(4, 3, padding=1), nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


@KIND.habit()
class AttentionOverPlaces(Small):
    """``scaled_dot_product_attention`` over the maps' places, with dropout in training."""

    def between(self, maps: Tensor) -> Tensor:
        rows = maps.flatten(2).transpose(1, 2)[:, None]
        mixed = F.scaled_dot_product_attention(rows, rows, rows, dropout_p=0.1 if self.training else 0.0)
        return maps + mixed[:, 0].transpose(1, 2).reshape(maps.shape)


@KIND.habit()
class UnfoldedByHand(Small):
    """A convolution as columns and a product; no kernel that low-mode could see."""

    def between(self, maps: Tensor) -> Tensor:
        columns = F.unfold(maps, 3, padding=1)
        return (self.body.weight.flatten(1) @ columns).view(maps.shape)


@KIND.habit()
class LayersInPlainLists(Small):
    """Layers out of the registry's sight in a list, one of them trained through another name."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.plan = [(self.first, torch.tanh), (self.body, torch.sigmoid)]

    def between(self, maps: Tensor) -> Tensor:
        for layer, activation in self.plan:
            maps = activation(layer(maps))
        return maps
