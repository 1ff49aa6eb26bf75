"""The networks that benchmarks measure, by the names that result files use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torchvision
from torch import nn


@dataclass(frozen=True)
class Case:
    """One network at one image side in pixels and one batch size."""

    build: Callable[[], nn.Module]
    side: int
    batch: int


def cifar_stem(model: nn.Module) -> nn.Module:
    """A ResNet for 32×32 images: a 3×3 stem of stride 1, no max pool (the paper's networks, §4)."""
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def resnet(depth: int, stem: str, classes: int) -> nn.Module:
    """torchvision's ResNet-18 or ResNet-50 with the CIFAR or the ImageNet stem."""
    model = torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=classes)
    return cifar_stem(model) if stem == "cifar" else model


CASES: dict[str, Case] = {
    "resnet18-cifar": Case(lambda: resnet(18, "cifar", 10), 32, 125),
    "resnet50-cifar": Case(lambda: resnet(50, "cifar", 10), 32, 125),
    "resnet18-imagenet": Case(lambda: resnet(18, "imagenet", 1000), 224, 64),
    "resnet50-imagenet": Case(lambda: resnet(50, "imagenet", 1000), 224, 64),
}
