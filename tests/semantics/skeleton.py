"""The network that most habits are written into: few channels, two convolutions of which low-mode pools the second."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS, CLASSES = 6, 3


class Small(nn.Module):
    """Stem, block, head. A habit overrides ``between`` (maps → maps, behind the stem), or what it is about."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.body = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def between(self, maps: Tensor) -> Tensor:
        return maps

    def maps(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.body(self.between(F.relu(self.stem(images))))))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.maps(images).mean((2, 3)))


def conv(channels: int = CHANNELS, filters: int = CHANNELS, kernel: int = 3, **options: int) -> nn.Conv2d:
    """A convolution that keeps the size of its maps, and that low-mode pools."""
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2, **options)


def sequence(*between: nn.Module) -> nn.Sequential:
    """The same network as a plain ``nn.Sequential``, with ``between`` behind the stem's activation."""
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES)
    return nn.Sequential(conv(3), nn.ReLU(), *between, conv(), nn.BatchNorm2d(CHANNELS), nn.ReLU(), *head)
