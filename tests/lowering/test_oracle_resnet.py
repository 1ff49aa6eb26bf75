"""The low graph of real ResNets against the same network written out by hand, in float64 to 1e-12.

The network by hand is itself held to numbers, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from copy import deepcopy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from oracle import buffers_restored
from oracle_kernels import naive_pool_kernel
from oracle_resnet import low_resnet_forward, resnet_block_convs
from torch import Tensor, nn

from lowmode_fx import LowModeConfig, build_pair

pytestmark = pytest.mark.usefixtures("one_thread")

# Low-mode ends on 2×2 maps at this size. On 1×1 (64) a norm over three values multiplies rounding by 1e5: by hand,
# the gradients of ResNet-50 then move by 3e-10 when the images are scaled by 1 + 2e-16.
IMAGENET_SIZE, CIFAR_SIZE = 96, 32

LIBRARIES: dict[str, Callable[..., nn.Module]] = {
    "torchvision": lambda name: getattr(torchvision.models, name)(num_classes=5),
    "timm": lambda name: timm.create_model(name, num_classes=5),
}


def make_resnet(library: str, name: str, stem: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = LIBRARIES[library](name)
        if stem == "cifar":
            model.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
            model.maxpool = nn.Identity()
        for module in model.modules():
            if isinstance(
                module, nn.BatchNorm2d
            ):  # timm starts the last norm of a block at zero, which hides the block
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.double().train()


def images_of(size: int, batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))


def gradients(model: nn.Module, output: Tensor) -> dict[str, Tensor]:
    """The gradients of a fixed weighted sum of ``output``; every parameter must get one."""
    model.zero_grad()
    (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    result = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        result[name] = parameter.grad.clone()
    return result


def assert_low_is_by_hand(
    model: nn.Module, config: LowModeConfig, *, size: int, pooled: Collection[str], drop_stem_maxpool: bool
) -> None:
    """Outputs, all parameter gradients and all buffers of ``pair.low``, and of the ResNet by hand."""
    pair = build_pair(model, images_of(size), config)
    assert pair.model is model
    images = images_of(size // 2)
    isolate = config.batchnorm == "isolate"

    start = deepcopy(dict(model.named_buffers()))
    with buffers_restored(model):
        low = pair.low(images)
        low_gradients = gradients(model, low)
        low_buffers = deepcopy(dict(model.named_buffers()))
    hand = low_resnet_forward(model, images, pooled=pooled, drop_stem_maxpool=drop_stem_maxpool, isolate=isolate)
    hand_gradients = gradients(model, hand)

    torch.testing.assert_close(low, hand, rtol=1e-12, atol=1e-12)
    scale = max(gradient.abs().max().item() for gradient in hand_gradients.values())
    for name, expected in hand_gradients.items():
        worst = (low_gradients[name] - expected).abs().max().item()
        assert worst <= 1e-12 * scale, f"the gradient of {name} is off by {worst:.1e}"
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(low_buffers[name], buffer, rtol=1e-12, atol=1e-12, msg=name)
        assert torch.equal(buffer, start[name]) is isolate, name


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("stem", "drop"), [("imagenet", "none"), ("imagenet", "stem"), ("cifar", "none")])
def test_low_graph_is_the_resnet_by_hand(library: str, name: str, stem: str, drop: str) -> None:
    model = make_resnet(library, name, stem)
    size = IMAGENET_SIZE if stem == "imagenet" else CIFAR_SIZE
    assert_low_is_by_hand(
        model,
        LowModeConfig(drop_maxpools=drop),  # type: ignore[arg-type]
        size=size,
        pooled=resnet_block_convs(model),
        drop_stem_maxpool=drop == "stem",
    )


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_paper_setting_pools_the_blocks_and_drops_the_maxpool(library: str, name: str) -> None:
    model = make_resnet(library, name, "imagenet")
    pooled = resnet_block_convs(model)
    assert len(pooled) == 16
    assert_low_is_by_hand(model, LowModeConfig.paper(), size=IMAGENET_SIZE, pooled=pooled, drop_stem_maxpool=True)


@pytest.mark.parametrize(
    ("options", "pooled"),
    [
        ({"kernel_ratio": 1}, lambda convs: set()),
        ({"pool_convs": "all"}, lambda convs: convs | {"conv1"}),
        ({"pool_convs": ["layer4.*.conv1"]}, lambda convs: {"layer4.0.conv1", "layer4.1.conv1"}),
        ({"pool_convs": ["conv1"]}, lambda convs: {"conv1"}),
        ({"keep_convs": ["layer1.*"]}, lambda convs: {name for name in convs if not name.startswith("layer1.")}),
        ({"pool_convs": "all", "keep_convs": ["layer*"]}, lambda convs: {"conv1"}),
        ({"batchnorm": "share"}, lambda convs: convs),
        ({"kernel_transform": "adaptive"}, lambda convs: convs),
        ({"rounding": "floor"}, lambda convs: convs),
    ],
    ids=lambda each: str(each) if isinstance(each, dict) else "",
)
def test_options_choose_what_is_pooled(
    options: dict[str, Any], pooled: Callable[[frozenset[str]], Collection[str]]
) -> None:
    model = make_resnet("torchvision", "resnet18", "imagenet")
    expected = pooled(resnet_block_convs(model))
    assert_low_is_by_hand(model, LowModeConfig(**options), size=IMAGENET_SIZE, pooled=expected, drop_stem_maxpool=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pooled": ()},
        {"pooled": ("layer1.0.conv1",)},
        {"drop_stem_maxpool": True},
    ],
    ids=str,
)
def test_the_comparison_can_fail(wrong: dict[str, Any]) -> None:
    """A low-mode by hand that differs in one place is told apart."""
    model = make_resnet("torchvision", "resnet18", "imagenet")
    right: dict[str, Any] = {"pooled": resnet_block_convs(model), "drop_stem_maxpool": False}
    with pytest.raises(AssertionError):
        assert_low_is_by_hand(model, LowModeConfig(), size=IMAGENET_SIZE, **(right | wrong))


# The ResNet by hand, held to numbers --------------------------------------------------------------------------------


class OneBlock(nn.Module):
    """The smallest thing with a ResNet's names: a stem and one basic block, the other layers empty."""

    def __init__(self) -> None:
        super().__init__()

        def conv(kernel: int, value: float) -> nn.Conv2d:
            module = nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False)
            nn.init.constant_(module.weight, value)
            return module

        self.conv1, self.bn1, self.maxpool = conv(1, 1.0), nn.BatchNorm2d(1, eps=1e-20), nn.MaxPool2d(3, 2, 1)
        block: Any = nn.Module()
        block.conv1, block.bn1 = conv(3, 1.0), nn.BatchNorm2d(1, eps=1e-20)
        block.conv2, block.bn2 = conv(3, -1.0), nn.BatchNorm2d(1, eps=1e-20)
        block.downsample = None
        self.layer1 = nn.ModuleList([block])
        self.layer2, self.layer3, self.layer4 = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.fc = nn.Linear(1, 1)
        nn.init.constant_(self.fc.weight, 2.0)
        nn.init.constant_(self.fc.bias, 1.0)


def test_low_resnet_forward_of_two_pixels() -> None:
    """(4, 8) → normalised (−1, 1) → relu (0, 1) → ·1, norm (−1, 1) → relu (0, 1) → ·(−1), norm (1, −1) → + (0, 1)."""
    model = OneBlock().double()
    images = torch.tensor([[[[4.0, 8.0]]]], dtype=torch.float64)
    convs = resnet_block_convs(model)
    assert convs == {"layer1.0.conv1", "layer1.0.conv2"}
    low = low_resnet_forward(model, images, pooled=convs, drop_stem_maxpool=True)
    assert low.item() == pytest.approx(2.0, abs=1e-12)  # relu (1, 0), mean 0.5, 2 · 0.5 + 1
    assert model.bn1.num_batches_tracked == 0
    low_resnet_forward(model, images, pooled=convs, drop_stem_maxpool=True, isolate=False)
    assert model.bn1.num_batches_tracked == 1
    assert model.bn1.running_mean is not None and model.bn1.running_mean.item() == pytest.approx(0.6)


def test_low_resnet_forward_distinguishes_pooled_convs_and_maxpool() -> None:
    model = OneBlock().double()
    images = torch.randn(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = {
        low_resnet_forward(model, images, pooled=pooled, drop_stem_maxpool=drop).item()
        for pooled in ((), ("layer1.0.conv1",), resnet_block_convs(model))
        for drop in (True, False)
    }
    assert len(results) == 6
    with pytest.raises(AssertionError, match="no such modules"):
        low_resnet_forward(model, images, pooled=["layer9.conv1"])


def test_low_resnet_forward_without_pooling_is_the_resnet() -> None:
    model = torchvision.models.resnet50(num_classes=3).double()
    images = torch.randn(2, 3, 33, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with buffers_restored(model):
        expected = model(images)
    torch.testing.assert_close(low_resnet_forward(model, images, pooled=()), expected, rtol=1e-12, atol=1e-12)


def test_low_resnet_forward_pools_a_7x7_stem() -> None:
    model = torchvision.models.resnet18(num_classes=3).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pooled = naive_pool_kernel(model.conv1.weight, 2)
    low = low_resnet_forward(model, images, pooled=["conv1"])
    model.conv1.weight = nn.Parameter(F.pad(pooled, [2, 2, 2, 2]))
    torch.testing.assert_close(low, low_resnet_forward(model, images, pooled=()), rtol=1e-12, atol=1e-12)
