"""A RepLKNet as its paper describes it (Ding et al., CVPR 2022, §4.1), of any width, depth and kernels.

A block has a large depthwise convolution and, beside it, a small one over the same input; each has a norm, and they are
added. Blocks alternate with feed-forward ones of 1×1 convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, up to its stride, and a batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class LargeKernelBlock(nn.Module):
    """Norm, 1×1, the large depthwise kernel beside the small one, 1×1, around a shortcut: ``(N, C, H, W)`` kept."""

    def __init__(self, channels: int, kernel: int, small: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.expand = nn.Sequential(conv_norm(channels, channels, 1), nn.ReLU())
        self.large = conv_norm(channels, channels, kernel, groups=channels)
        self.small = conv_norm(channels, channels, small, groups=channels)
        self.project = conv_norm(channels, channels, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.norm(x))
        result: Tensor = x + self.project(self.relu(self.large(y) + self.small(y)))
        return result


class FeedForward(nn.Module):
    """Norm, 1×1 to four times the channels, GELU, 1×1 back, around a shortcut: ``(N, C, H, W)`` kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.expand = conv_norm(channels, 4 * channels, 1)
        self.project = conv_norm(4 * channels, channels, 1)
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.project(self.gelu(self.expand(self.norm(x))))
        return result


def rep_lk_net(
    widths: Sequence[int] = (128, 256, 512, 1024),
    depths: Sequence[int] = (2, 2, 18, 2),
    kernels: Sequence[int] = (31, 29, 27, 13),
    small: int = 5,
    classes: int = 1000,
    stem_stride: int = 4,
) -> nn.Module:
    """RepLKNet-31B by default. stem_stride: 4 as in the paper, 2 for small images."""
    first = widths[0]
    layers: list[nn.Module] = [conv_norm(3, first, 3, 2), nn.ReLU(), conv_norm(first, first, 3, 1, first), nn.ReLU()]
    layers += [conv_norm(first, first, 1), nn.ReLU(), conv_norm(first, first, 3, stem_stride // 2, first), nn.ReLU()]
    for stage, (width, depth, kernel) in enumerate(zip(widths, depths, kernels, strict=True)):
        if stage:
            layers += [conv_norm(widths[stage - 1], width, 1), nn.ReLU(), conv_norm(width, width, 3, 2, width)]
            layers += [nn.ReLU()]
        for _ in range(depth):
            layers += [LargeKernelBlock(width, kernel, small), FeedForward(width)]
    head = (nn.BatchNorm2d(widths[-1]), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    return nn.Sequential(*layers, *head)
