"""Live lowering computes what the low graph computes, bit for bit, on models of many makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from live_checks import assert_does_what_the_graph_does, low_images, pair_of, step
from oracle import EagerLowMode, buffers_restored
from timm.layers import CondConv2d
from timm.layers.pool2d_same import MaxPool2dSame
from tiny import named
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lowmode_fx.lowering.live import LiveLowering

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = (2, 3, 32, 32)


def conv(channels: int = 4, filters: int = 4, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2, **options)


# Real models ---------------------------------------------------------------------------------------------------------


def from_timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=4, **options)


def from_torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=4, **options)


ZOO: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "resnet18": (from_torchvision("resnet18"), {}),
    "resnet18 as in the paper": (from_timm("resnet18"), {"drop_maxpools": "stem", "batchnorm": "share"}),
    "resnet50, another stride": (from_torchvision("resnet50"), {"strides": {"conv1": 1}}),
    "densenet121": (from_torchvision("densenet121"), {}),
    "efficientnet_b0": (from_timm("efficientnet_b0"), {}),
    "kernels computed by routing": (from_timm("tf_efficientnet_cc_b0_4e"), {}),
    "standardised kernels": (from_timm("resnetv2_50"), {}),
    "scaled standardised kernels": (from_timm("nf_resnet26"), {"drop_maxpools": "all"}),
    "googlenet": (from_torchvision("googlenet", init_weights=False, aux_logits=False), {"drop_maxpools": "stem"}),
    "segmenter": (
        lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=4
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", ZOO)
def test_real_models(name: str) -> None:
    make, options = ZOO[name]
    torch.manual_seed(0)
    assert_does_what_the_graph_does(make(), 2, 3, 64, 64, **options)


# Every kind of call --------------------------------------------------------------------------------------------------


class Decoder(nn.Module):
    """Transposed convolutions, one of whose outputs has to be padded, and outputs in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(3), conv(4, 6, 5, stride=2)
        self.up = nn.ConvTranspose2d(6, 4, 5, stride=2, padding=2, output_padding=1)
        self.up_wide = nn.ConvTranspose2d(6, 4, 5, stride=2)
        self.grouped = conv(4, 4, 7, groups=2, bias=False)

    def forward(self, x: Tensor) -> dict[str, Any]:
        small = F.relu(self.down(F.relu(self.stem(x))))
        return {"map": self.grouped(self.up(small)), "others": [self.up_wide(small), (small,)]}


class Spelled(nn.Module):
    """Convolutions as functions, in every spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3)
        self.kernels = nn.ParameterList([nn.Parameter(torch.randn(4, 4, 3, 3) * 0.2) for _ in range(5)])
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e = self.kernels
        x = F.conv2d(weight=a, input=self.stem(x), padding=1, bias=self.bias)
        x = torch.conv2d(x, b, None, [2], "valid")
        x = torch.convolution(x, c, self.bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        x = torch.ops.aten.conv2d.default(x, d, self.bias, [1, 1], [2, 2], [2, 2])
        return F.conv2d(x, e, padding="same").mean((2, 3))


class SharedKernel(nn.Module):
    """One kernel, pooled in one call and kept in the other, where its windows do not overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.pool = conv(3), conv(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.body(self.pool(self.stem(x))))
        return F.conv2d(x, self.body.weight, stride=3, padding=1).mean((2, 3))


class FunctionalPools(nn.Module):
    """Max pools without a module, the first of which is the stem's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = conv(3), conv(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = F.max_pool2d(F.relu(self.body(x)), kernel_size=2)
        return self.head(F.max_pool2d(x, 2).mean((2, 3)))


class Flattened(nn.Module):
    """A head that fixes its map's size, behind a function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = conv(3), conv(), nn.Linear(4 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.body(F.max_pool2d(self.stem(x), 2)), 2)
        return self.head(x.view(x.size(0), -1))


class Positions(nn.Module):
    """A table of positions behind layers, and a pool that covers its whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.body = named(stem=conv(3), conv=conv(), norm=nn.BatchNorm2d(4), act=nn.ReLU())
        self.positions = nn.Parameter(torch.randn(1, 4, 32, 32))
        self.pool, self.head = nn.AvgPool2d(32, divisor_override=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(x) + self.positions).flatten(1))


CALLS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "transposed": (Decoder, {}),
    "transposed, every kernel": (Decoder, {"pool_convs": "all"}),
    "the sum of taps": (Decoder, {"gain": "sum", "kernel_transform": "adaptive"}),
    "the middle taps": (Decoder, {"kernel_transform": "center", "rounding": "floor"}),
    "resampled": (Decoder, {"kernel_transform": "linear", "rounding": "cover"}),
    "a transform of the user's": (
        Decoder, {"kernel_transform": lambda kernel, size: F.interpolate(kernel, size=size, mode="bilinear")},
    ),
    "spellings": (Spelled, {}),
    "a shared kernel": (SharedKernel, {}),
    "a shared pool": (SharedKernel, {"drop_maxpools": "stem"}),
    "functional pools": (FunctionalPools, {"drop_maxpools": "stem"}),
    "all functional pools": (FunctionalPools, {"drop_maxpools": "all"}),
    "a flattened head": (Flattened, {"adapt_head": True}),
    "a flattened head, pools dropped": (Flattened, {"adapt_head": True, "drop_maxpools": "stem"}),
    "positions": (Positions, {"adapt_head": True}),
    "positions and globs": (Positions, {"adapt_head": True, "pool_convs": ["body.*"], "strides": {"body.conv": 2}}),
    "a flattened map in a module": (
        lambda: named(stem=conv(3), conv=conv(), flat=nn.Flatten(), head=nn.Linear(4 * 32 * 32, 3)),
        {"adapt_head": True},
    ),
    "kept kernels": (Decoder, {"keep_convs": ["up*"]}),
    "whole images": (Decoder, {"downsample_input": False}),
    "weight norm": (lambda: named(stem=conv(3), norm=parametrizations.weight_norm(conv())), {}),
    "weight norm, kept": (
        lambda: named(stem=conv(3), a=parametrizations.weight_norm(conv()), b=parametrizations.weight_norm(conv())),
        {"keep_convs": ["a"]},
    ),
    "a pool that pads for itself": (
        lambda: named(stem=conv(3), pool=MaxPool2dSame(3, 2), conv=conv()), {"drop_maxpools": "all"},
    ),
    "a max pool of the whole map": (
        lambda: named(stem=conv(3), conv=conv(), pool=nn.MaxPool2d(32), flat=nn.Flatten(), head=nn.Linear(4, 3)), {},
    ),
    "modules that are not traced": (
        lambda: named(stem=conv(3), leaf=named(a=conv(), b=parametrizations.weight_norm(conv())), last=conv()),
        {"leaf_modules": [nn.Sequential]},
    ),
    "three dimensions": (
        lambda: named(unfold=nn.Unflatten(3, (4, 8)), a=nn.Conv3d(3, 4, 3, padding=1), b=nn.Conv3d(4, 4, 3)),
        {"ratio": 1.5, "downsample_input": False},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    make, options = CALLS[name]
    torch.manual_seed(0)
    assert_does_what_the_graph_does(make(), *IMAGES, **options)


@pytest.mark.parametrize("make", [Decoder, SharedKernel, FunctionalPools])
def test_places_are_found_as_torch_export_reports_them(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    assert_does_what_the_graph_does(make(), *IMAGES, front_end="export", drop_maxpools="stem")


@pytest.mark.parametrize("transform", ["avg", "linear"])
def test_values_are_the_oracles(transform: str) -> None:
    """Beside the low-mode of the tests, which shares nothing with the product."""
    torch.manual_seed(0)
    model = Decoder()
    pair = pair_of(model, *IMAGES, kernel_transform=transform)
    model.double()
    images = low_images(pair).double()
    outputs, gradients = step(model, LiveLowering(pair).run, images)
    with EagerLowMode(2, transform=transform, leaves=False), buffers_restored(model):  # type: ignore[arg-type]
        expected, theirs = step(model, model, images)
    for found, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=1e-10)


def test_a_conditional_convolution_alone() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.routing = conv(3), nn.Linear(4, 3)
            self.conv = CondConv2d(4, 4, 3, padding=1, bias=True, num_experts=3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.conv(x, torch.sigmoid(self.routing(x.mean((2, 3)))))

    torch.manual_seed(0)
    assert_does_what_the_graph_does(Routed(), *IMAGES)


# Contexts ------------------------------------------------------------------------------------------------------------


def test_under_autocast() -> None:
    torch.manual_seed(0)
    model = named(stem=conv(3), conv=conv(), norm=nn.BatchNorm2d(4), act=nn.ReLU(), last=conv())
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = live.run(images), pair.low(images)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_without_gradients() -> None:
    torch.manual_seed(0)
    pair = pair_of(Decoder(), *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    with torch.no_grad():
        found = live.run(images)
    assert torch.equal(found["map"], pair.low(images)["map"])
    assert not found["map"].requires_grad


def test_images_are_downsampled_inside_where_that_is_asked_for() -> None:
    torch.manual_seed(0)
    pair = pair_of(SharedKernel(), *IMAGES)
    images = torch.randn(IMAGES)
    found = LiveLowering(pair, downsample=True).run(images)
    assert torch.equal(found, pair.low(pair.downsample(images)))


def test_a_kernel_is_pooled_as_the_call_stands_now() -> None:
    """A layer whose stride or padding is set after the build."""
    torch.manual_seed(0)
    model = named(stem=conv(3), body=conv())
    pair = pair_of(model, *IMAGES)
    live, images = LiveLowering(pair), low_images(pair)
    assert torch.equal(live.run(images), pair.low(images))
    model.body.stride, model.body.padding = (2, 2), (0, 0)
    kernel = model.body.weight.mean((2, 3), keepdim=True)
    expected = F.conv2d(model.stem(images)[..., 1:-1, 1:-1], kernel, model.body.bias, stride=2)
    torch.testing.assert_close(live.run(images), expected)
