"""A network of a few layers that has all that a pair must share with its model."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from lowmode_fx import Ladder, LowModeConfig, ModePair, build_pair


def named(**modules: nn.Module) -> nn.Sequential:
    """The modules one after the other, by these names."""
    return nn.Sequential(OrderedDict(modules))


class Tiny(nn.Module):
    """Convs, norms, a buffer of the root's own, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("offset", torch.full((4, 1, 1), 0.1))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x)) * self.scale + self.offset
        return self.fc(self.drop(x.mean((2, 3))))


IMAGES = (2, 3, 16, 16)


def tiny_pair(**options: Any) -> ModePair:
    return build_pair(Tiny(), torch.zeros(IMAGES), LowModeConfig(**options))


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def assert_shared(ladder: Ladder) -> None:
    """Every mode holds the model's own parameters and buffers, under their names, and no others."""
    expected = tensors(ladder.model)
    for mode in ladder.modes:
        found = tensors(ladder.graph(mode))
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor is expected[name], name
