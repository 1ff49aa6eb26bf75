"""The networks of the benchmarks, by the names in result files."""

from __future__ import annotations

from functools import partial

import timm
import torchvision
from timm.models.efficientnet import _gen_efficientnet
from torch import Tensor, nn

from bench.case import Case
from bench.large_networks import LARGE, for_small_images


def cifar_stem(model: nn.Module) -> nn.Module:
    """A ResNet for 32×32 images: a 3×3 stem of stride 1, no max pool (the paper's networks, §4)."""
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


class BasicBlock(nn.Module):
    """Two convolutions of ``kernel`` × ``kernel``, each with a norm, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int) -> None:
        super().__init__()
        half = kernel // 2
        self.conv1 = nn.Conv2d(inputs, outputs, kernel, stride, half, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel, 1, half, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        same = stride == 1 and inputs == outputs
        self.downsample = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu(residual + self.downsample(x))
        return result


def small_resnet(blocks: int = 1, kernel: int = 3, width: int = 16, classes: int = 10) -> nn.Module:
    """The CIFAR ResNet of He et al. (2016, §4.2), 6 × ``blocks`` + 2 layers deep, with blocks of any odd kernel."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage in range(3):
        outputs, members = width << stage, []
        for index in range(blocks):
            members.append(BasicBlock(inputs, outputs, 2 if stage and not index else 1, kernel))
            inputs = outputs
        layers.append(nn.Sequential(*members))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def narrow_efficient_net(classes: int = 10) -> nn.Module:
    """timm's EfficientNet-B0 at a quarter of its width and half its depth, for small images: 3×3 and 5×5 depthwise."""
    return for_small_images(_gen_efficientnet("efficientnet_b0", 0.25, 0.5, num_classes=classes))


def larger_maps(classes: int = 10) -> nn.Module:
    """The same, whose last maps are 4×4 instead of 2×2: its last stride is 1."""
    model = narrow_efficient_net(classes)
    last = model.get_submodule("blocks.5.0.conv_dw")
    assert isinstance(last, nn.Conv2d) and last.stride == (2, 2)
    last.stride = (1, 1)
    return model


def resnet(depth: int, stem: str, classes: int) -> nn.Module:
    """torchvision's ResNet-18 or ResNet-50 with the CIFAR or the ImageNet stem."""
    model = torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=classes)
    return cifar_stem(model) if stem == "cifar" else model


#: Other families, by timm's names.
TIMM = ("efficientnet_b0", "convnext_tiny", "regnety_008", "mobilenetv3_large_100", "vgg16", "densenet121")

CASES: dict[str, Case] = {
    "resnet18-cifar": Case(lambda: resnet(18, "cifar", 10), 32, 125),
    "resnet50-cifar": Case(lambda: resnet(50, "cifar", 10), 32, 125),
    "resnet18-imagenet": Case(lambda: resnet(18, "imagenet", 1000), 224, 64),
    "resnet50-imagenet": Case(lambda: resnet(50, "imagenet", 1000), 224, 64),
    **{name: Case(partial(timm.create_model, name), 224, 64) for name in TIMM},
    **LARGE,
}

#: The cases for a GPU, the most important first: small batches, whose kernels wait for launches, and large ones.
GPU_CASES: dict[str, Case] = {
    "resnet18-cifar": CASES["resnet18-cifar"],
    "resnet18-cifar-b512": Case(partial(resnet, 18, "cifar", 10), 32, 512),
    "resnet50-imagenet-b128": Case(partial(resnet, 50, "imagenet", 1000), 224, 128),
    "resnet50-cifar-b512": Case(partial(resnet, 50, "cifar", 10), 32, 512),
    "resnet18-imagenet-b256": Case(partial(resnet, 18, "imagenet", 1000), 224, 256),
    "resnet50-cifar": CASES["resnet50-cifar"],
}

#: Small cases, to test the benchmarks themselves.
TINY: dict[str, Case] = {"tiny": Case(partial(small_resnet, width=8), 16, 8)}
