"""Kernels that are not trained: in buffers, constants, frozen layers. Averaged, an edge filter would become nothing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import Kind
from semantics.skeleton import CHANNELS, Small, conv

KIND = Kind("fixed_kernels", r"buffer|fixed|kernel|trained")
SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])


def for_each_channel(kernel: Tensor) -> Tensor:
    """``(K, K)`` as a kernel that mixes no channels, ``(C, C, K, K)``: dense, so that its shape tells nothing."""
    return torch.eye(CHANNELS)[:, :, None, None] * kernel


@KIND.habit(compiled=True)
class SobelInABuffer(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", for_each_channel(SOBEL))

    def between(self, maps: Tensor) -> Tensor:
        return torch.tanh(F.conv2d(maps, self.edges, padding=1))


@KIND.habit()
class SobelAsAFrozenParameter(Small):
    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Parameter(for_each_channel(SOBEL), requires_grad=False)

    def between(self, maps: Tensor) -> Tensor:
        return torch.tanh(F.conv2d(maps, self.edges, padding=1))


@KIND.habit()
class SobelAsAFrozenLayer(Small):
    def __init__(self) -> None:
        super().__init__()
        self.edges = conv().requires_grad_(False)
        self.edges.weight.copy_(for_each_channel(SOBEL))

    def between(self, maps: Tensor) -> Tensor:
        return torch.tanh(self.edges(maps))


@KIND.habit()
class SobelAsAPlainTensor(Small):
    def __init__(self) -> None:
        super().__init__()
        self.edges = for_each_channel(SOBEL)

    def between(self, maps: Tensor) -> Tensor:
        return torch.tanh(F.conv2d(maps, self.edges, padding=1))


@KIND.habit()
class SobelMadeInForward(Small):
    def between(self, maps: Tensor) -> Tensor:
        rows = torch.tensor([1.0, 2.0, 1.0])
        edges = torch.outer(rows, torch.tensor([-1.0, 0.0, 1.0]))
        return torch.tanh(F.conv2d(maps, for_each_channel(edges), padding=1))


@KIND.habit()
class EdgesInTwoDirections(Small):
    """Both directions from one buffer, and their magnitude."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", for_each_channel(SOBEL))

    def between(self, maps: Tensor) -> Tensor:
        across = F.conv2d(maps, self.edges, padding=1)
        down = F.conv2d(maps, self.edges.transpose(2, 3), padding=1)
        return (across.square() + down.square() + 1e-3).sqrt()


@KIND.habit()
class PartialConvolution(Small):
    """Ones in a buffer count the valid pixels under each window."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ones", torch.ones(1, CHANNELS, 3, 3))

    def between(self, maps: Tensor) -> Tensor:
        valid = (maps > 0).to(maps.dtype)
        share = F.conv2d(valid, self.ones, padding=1) / self.ones.numel()
        return self.body(maps * valid) / (share + 1e-2)


@KIND.habit()
class BlurredBeforeStride(Small):
    """An anti-aliasing blur of 5×5 in a buffer, one a channel."""

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("blur", torch.outer(row, row).expand(CHANNELS, 1, 5, 5).clone())

    def between(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, self.blur, stride=2, padding=2, groups=CHANNELS)


@KIND.habit()
class Laplacian(Small):
    """Worked out from two buffers in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "middle", torch.zeros(3, 3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(1.0))
        )
        self.register_buffer("box", torch.full((3, 3), 1 / 9))

    def between(self, maps: Tensor) -> Tensor:
        return maps + F.conv2d(maps, for_each_channel(self.middle - self.box), padding=1)


@KIND.habit()
class LearnedMixOfFixedKernels(Small):
    """A bank of cosines is fixed, the shares of it are trained: that kernel is pooled."""

    def __init__(self) -> None:
        super().__init__()
        waves = torch.stack([torch.cos(math.pi * k * (torch.arange(3) + 0.5) / 3) for k in range(3)])
        self.register_buffer("bank", torch.einsum("ah,bw->abhw", waves, waves).reshape(9, 3, 3))
        self.shares = nn.Parameter(torch.randn(CHANNELS, CHANNELS, 9) * 0.2)

    def between(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, torch.einsum("oik,khw->oihw", self.shares, self.bank), padding=1)


@KIND.habit()
class GaussianOfATrainedWidth(Small):
    """A blur whose width is trained: a trained parameter reaches the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.width = nn.Parameter(torch.tensor(1.2))

    def between(self, maps: Tensor) -> Tensor:
        row = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / self.width).square())
        row = row / row.sum()
        return F.conv2d(maps, for_each_channel(torch.outer(row, row)), padding=2)


@KIND.habit()
class SmoothnessPenalty(Small):
    """The fixed kernel is in the loss's branch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", for_each_channel(SOBEL))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.maps(images)
        return self.head(maps.mean((2, 3))), F.conv2d(maps, self.edges, padding=1).abs().mean()
