"""Ordinary networks: whatever way low-mode takes, these have to go on being right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import Kind, batches
from semantics.skeleton import CHANNELS, Small, conv, sequence

KIND = Kind("plain", None)


@KIND.habit(compiled=True)
class Smallest(Small):
    pass


@KIND.habit()
class Residual(Small):
    def between(self, maps: Tensor) -> Tensor:
        return F.relu(maps + self.body(maps))


@KIND.habit()
class DenseBlock(Small):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Conv2d(2 * CHANNELS, CHANNELS, 3, padding=1)

    def between(self, maps: Tensor) -> Tensor:
        return self.more(torch.cat([maps, F.relu(self.body(maps))], 1))


@KIND.habit()
def inception() -> nn.Module:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tall = nn.Conv2d(CHANNELS, CHANNELS, (7, 1), padding=(3, 0))
            self.wide = nn.Conv2d(CHANNELS, CHANNELS, (1, 5), padding=(0, 2))

        def forward(self, maps: Tensor) -> Tensor:
            return self.tall(maps) + self.wide(maps) + F.max_pool2d(maps, 3, 1, 1)

    return sequence(Branches())


@KIND.habit()
class EncoderAndDecoder(Small):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(CHANNELS, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, CHANNELS, 4, stride=2, padding=1)

    def between(self, maps: Tensor) -> Tensor:
        return maps + self.up(F.silu(self.down(maps)))


@KIND.habit()
def grouped_dilated_and_even() -> nn.Module:
    return sequence(
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(CHANNELS, CHANNELS, 4, padding=2),
        nn.GELU(),
        nn.Conv2d(CHANNELS, CHANNELS, 7, padding="same", padding_mode="circular"),
    )


@KIND.habit()
def depthwise() -> nn.Module:
    return sequence(nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS), nn.Conv2d(CHANNELS, CHANNELS, 1))


@KIND.habit()
class SqueezeAndExcitation(Small):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(CHANNELS, 2, 1), nn.ReLU(), nn.Conv2d(2, CHANNELS, 1), nn.Sigmoid())

    def between(self, maps: Tensor) -> Tensor:
        return maps * self.gate(F.adaptive_avg_pool2d(maps, 1))


@KIND.habit()
def norms_of_groups_and_layers() -> nn.Module:
    return sequence(nn.GroupNorm(2, CHANNELS), conv(), nn.InstanceNorm2d(CHANNELS), nn.PReLU())


@KIND.habit(given=batches(sides=(32,)))
class Signals(nn.Module):
    """One dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv1d(3, CHANNELS, 7, padding=3), nn.Conv1d(CHANNELS, CHANNELS, 5, padding=2)
        self.norm, self.head = nn.BatchNorm1d(CHANNELS), nn.Linear(CHANNELS, 3)

    def forward(self, signals: Tensor) -> Tensor:
        return self.head(self.norm(self.body(F.relu(self.stem(signals)))).amax(2))


@KIND.habit(given=batches(batch=2, sides=(4, 8, 8)))
class Volumes(nn.Module):
    """Three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv3d(3, CHANNELS, 3, padding=1), nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm, self.head = nn.BatchNorm3d(CHANNELS), nn.Linear(CHANNELS, 3)

    def forward(self, volumes: Tensor) -> Tensor:
        return self.head(self.norm(self.body(F.relu(self.stem(volumes)))).mean((2, 3, 4)))
