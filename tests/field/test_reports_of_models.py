"""Public reports on models and training loops: each as a small case with the value that is right.

The first line of a test names where it was met; docs/models.md has the list.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor

from lowmode_fx import LowModeConfig, LowModeModel, Mode, PeriodicSchedule, build_pair, downsample
from passes.errors import PassError

POOL_ALL = LowModeConfig(pool_convs="all")


def conv(given: int, made: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, made, 3, padding=1), nn.BatchNorm2d(made), nn.ReLU())


def net_of(model: nn.Module, images: Tensor, config: LowModeConfig = POOL_ALL, period: int = 2) -> LowModeModel:
    return LowModeModel(build_pair(model, images, config), PeriodicSchedule(period), compile=False).train()


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


# What a model is -----------------------------------------------------------------------------------------------------


def test_a_feature_extractor_of_torchvision() -> None:
    """pytorch/vision#5104: a traced extractor failed on assertions about its own input."""
    torch.manual_seed(0)
    model = create_feature_extractor(torchvision.models.resnet18(), {"layer1": "early", "layer3": "late"})
    images = torch.randn(2, 3, 64, 64)
    net = net_of(model, images, LowModeConfig(restore_output=True))
    plain = copy.deepcopy(model).train()
    full, low, right = net.run(Mode.FULL, images), net.run(Mode.LOW, images), plain(images)
    assert same(full, right) and {name: value.shape for name, value in low.items()} == {
        name: value.shape for name, value in right.items()
    }


def test_features_of_timm() -> None:
    """huggingface/pytorch-image-models#1176: models that return features could not be traced."""
    model = timm.create_model("resnet10t", features_only=True, channels=(8, 8, 8, 8), stem_width=8)
    images = torch.randn(2, 3, 64, 64)
    net = net_of(model, images, LowModeConfig(restore_output=True))
    full, low = net.run(Mode.FULL, images), net.run(Mode.LOW, images)
    assert [each.shape for each in low] == [each.shape for each in full] and len(full) == 5
    sum(each.mean() for each in low).backward()


class UNet(nn.Module):
    """Halves its map three times, and joins each size with the one that comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv(3, 4), conv(4, 4), conv(4, 4), conv(4, 4)])
        self.up = nn.ModuleList([conv(8, 4), conv(8, 4), conv(8, 4)])
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps, kept = images, []
        for stage in self.down[:-1]:
            maps = stage(maps)
            kept.append(maps)
            maps = F.max_pool2d(maps, 2)
        maps = self.down[-1](maps)
        for stage, skip in zip(self.up, reversed(kept), strict=True):
            maps = stage(torch.cat([F.interpolate(maps, scale_factor=2), skip], 1))
        return self.head(maps)


def test_a_u_net_on_sides_that_halve_too_rarely() -> None:
    """qubvel-org/segmentation_models.pytorch#617, #548, #421: maps that do not meet, told in a decoder's depth."""
    images = torch.randn(2, 3, 40, 40)  # halves three times; 20 does not
    with pytest.raises(
        PassError, match=r"can't take 20×20 .*nearest sizes that it takes are 16×16 and 24×24: set size_mul"
    ):
        build_pair(UNet(), images, LowModeConfig(restore_output=True))
    net = net_of(UNet(), images, LowModeConfig(restore_output=True, size_multiple=8))
    assert net.run(Mode.LOW, images).shape == net.run(Mode.FULL, images).shape == (2, 2, 40, 40)


def test_targets_that_are_indices() -> None:
    """mosaicml/composer#604: smaller images, and targets that must not be interpolated. Here they stay as they are."""
    torch.manual_seed(0)
    images, targets = torch.randn(2, 3, 16, 16), torch.randint(0, 2, (2, 16, 16))
    model = nn.Sequential(conv(3, 4), nn.Conv2d(4, 2, 3, padding=1))
    restored, plain = (
        net_of(copy.deepcopy(model), images, LowModeConfig(restore_output=each)) for each in (True, False)
    )
    small = plain.run(Mode.LOW, images)
    right = F.cross_entropy(F.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False), targets)
    assert small.shape[2:] == (8, 8)
    torch.testing.assert_close(F.cross_entropy(restored.run(Mode.LOW, images), targets), right)


EEG = nn.Sequential(
    nn.Conv2d(1, 4, (1, 9), padding=(0, 4)), nn.Conv2d(4, 8, (4, 1)), nn.Conv2d(8, 8, (1, 5)), nn.AdaptiveAvgPool2d(1)
)
LINE = nn.Sequential(
    conv(1, 4), *(nn.Sequential(nn.MaxPool2d(2), conv(4, 4)) for _ in range(3)), nn.Conv2d(4, 4, (4, 3))
)


@pytest.mark.parametrize(("model", "shape"), [(EEG, (2, 1, 4, 64)), (LINE, (2, 1, 32, 128))])
def test_images_with_a_short_side(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Electrodes by time, lines of text: the short side is no side of an image. (Two of many; no single report.)"""
    images = torch.randn(shape)
    with pytest.raises(PassError, match=r"set ratio=\(1, 2\) to keep its short side"):
        build_pair(model, images)
    net = net_of(copy.deepcopy(model), images, LowModeConfig(ratio=(1, 2)))
    assert net.ladder.report.low_input_shape == (*shape[:3], shape[3] // 2)
    net.run(Mode.LOW, images).sum().backward()


class Positions(nn.Module):
    """A convolution that makes patches, with a learnt position for each of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.patches = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 4, 4)
        self.positions = nn.Parameter(torch.zeros(1, 16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((self.patches(self.stem(images)).flatten(2).transpose(1, 2) + self.positions).mean(1))


def test_positions_learnt_for_one_size() -> None:
    """Beckschen/TransUNet#35: an embedding of positions that fits one input size."""
    images = torch.randn(2, 3, 16, 16)
    with pytest.raises(PassError, match=r"adapt_head=True .*downsample_input=False"):
        build_pair(Positions(), images, POOL_ALL)
    for way_out in (LowModeConfig(adapt_head=True), LowModeConfig(downsample_input=False, pool_convs="all")):
        assert net_of(Positions(), images, way_out).run(Mode.LOW, images).shape == (2, 3)


class Standardised(nn.Conv2d):
    """A convolution whose kernel has mean 0 and deviation 1 for each output channel."""

    def forward(self, maps: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return F.conv2d(maps, (self.weight - mean) / (deviation + 1e-5), self.bias, self.stride, self.padding)


def test_standardised_kernels_are_pooled_as_they_are_used() -> None:
    """huggingface/pytorch-image-models#522, mosaicml/composer#1562: the kernel that counts is the standardised one."""
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(3, 4, 1), Standardised(4, 4, 3, padding=1)), torch.randn(2, 3, 8, 8)
    net = net_of(model, images)
    kernel = model[1].weight
    deviation, mean = torch.std_mean(kernel, dim=[1, 2, 3], keepdim=True, unbiased=False)
    pooled = ((kernel - mean) / (deviation + 1e-5)).mean((2, 3), keepdim=True)
    right = F.conv2d(model[0](downsample(images, 2)), pooled, model[1].bias)
    found = net.run(Mode.LOW, images)
    torch.testing.assert_close(found, right)
    ours, theirs = (torch.autograd.grad(each.square().sum(), kernel)[0] for each in (found, right))
    torch.testing.assert_close(ours, theirs)


def test_code_that_asks_for_the_mode() -> None:
    """huggingface/pytorch-image-models#800: control flow on self.training stayed as it was when it was traced."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.extra = conv(3, 4), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, images: Tensor) -> Any:
            maps = self.body(images)
            return (self.head(maps), self.extra(maps)) if self.training else self.head(maps)

    images = torch.randn(2, 3, 8, 8)
    net = net_of(Heads().eval(), images)
    assert [isinstance(net.train(training)(images), tuple) for training in (True, False, True)] == [True, False, True]
    assert net.last_mode is Mode.LOW


# Norms ---------------------------------------------------------------------------------------------------------------


class Recomputed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.block, self.reentrant = nn.Conv2d(3, 4, 1), conv(4, 4), reentrant

    def forward(self, images: Tensor) -> Tensor:
        return checkpoint(self.block, self.stem(images), use_reentrant=self.reentrant).mean((2, 3))


@pytest.mark.parametrize("reentrant", [False, True])
def test_norms_in_a_block_that_is_recomputed(reentrant: bool) -> None:
    """pytorch/pytorch#96136, #62471: recomputation moves statistics twice. As in the model, and not in low-mode."""
    torch.manual_seed(0)
    model, images = Recomputed(reentrant), torch.randn(4, 3, 8, 8)
    plain = copy.deepcopy(model).train()
    net = net_of(model, images)
    net.run(Mode.FULL, images).sum().backward()
    plain(images).sum().backward()
    assert same(buffers(model), buffers(plain)) and int(model.block[1].num_batches_tracked) == 2
    before = buffers(model)
    net.run(Mode.LOW, images).sum().backward()
    assert same(buffers(model), before)


def test_norms_frozen_after_train() -> None:
    """yhenon/pytorch-retinanet#151: norms in eval mode in training. An image's output then hangs on no other image."""
    images = torch.randn(4, 3, 8, 8)
    net = net_of(nn.Sequential(conv(3, 4), conv(4, 4)), images)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for mode in (Mode.FULL, Mode.LOW):
        together, alone = net.run(mode, images), net.run(mode, images[:1])
        torch.testing.assert_close(together[:1], alone)


def test_frozen_norms_of_torchvision() -> None:
    """pytorch/vision#5443, facebookresearch/detectron2#914: norms that are constants, in detectors."""
    frozen = torchvision.ops.FrozenBatchNorm2d(4)
    frozen.weight.fill_(2.0)
    frozen.bias.fill_(1.0)
    images = torch.randn(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), frozen)
    net = net_of(model, images, LowModeConfig(kernel_ratio=1))
    torch.testing.assert_close(net.run(Mode.LOW, images), model[0](downsample(images, 2)) * 2 / (1 + 1e-5) ** 0.5 + 1)


def test_a_norm_without_momentum() -> None:
    """pytorch/pytorch#194504: BatchNorm(momentum=None) divides by a counter."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=None))
    plain, images = copy.deepcopy(model).train(), torch.randn(4, 3, 8, 8)
    net = net_of(model, images)
    for step in range(4):  # full, low, full, low
        net(images * (step + 1))
        if net.last_mode is Mode.FULL:
            plain(images * (step + 1))
    assert same(buffers(model), buffers(plain)) and int(model[1].num_batches_tracked) == 2


def test_statistics_of_averaged_weights() -> None:
    """mosaicml/composer#624: the norms of averaged weights need statistics of their own."""
    torch.manual_seed(0)
    model, loader = nn.Sequential(conv(3, 4), conv(4, 4)), [torch.randn(4, 3, 8, 8) for _ in range(3)]
    averaged, right = AveragedModel(net_of(model, loader[0])), AveragedModel(copy.deepcopy(model))
    step = averaged.module.step
    for each in (averaged, right):
        update_bn(loader, each)
    assert same(buffers(averaged.module), buffers(right.module)) and averaged.module.step == step


# Copies and loops ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [parametrizations.weight_norm, lambda each: prune.l1_unstructured(each, "weight", 0.5)]
)
def test_copies_of_normalised_and_pruned_models(change: Any) -> None:
    """pytorch/pytorch#28594, #102981, #37322, mosaicml/composer#864: deep copies of weights that are computed."""
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)), torch.randn(2, 3, 8, 8)
    change(model[1])
    net = net_of(model, images)
    copied = copy.deepcopy(net)
    for mode in (Mode.FULL, Mode.LOW):
        assert torch.equal(net.run(mode, images), copied.run(mode, images))
    with torch.no_grad():
        next(copied.parameters()).add_(1.0)
    assert not torch.equal(net.run(Mode.LOW, images), copied.run(Mode.LOW, images))


def test_accumulation_over_the_end_of_an_epoch() -> None:
    """Lightning-AI/pytorch-lightning#831, #2242: steps counted with each batch, or lost where an epoch ends."""
    images = torch.randn(2, 3, 8, 8)
    net = net_of(nn.Sequential(conv(3, 4), conv(4, 4)), images)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    net.attach(optimizer)
    modes = []
    for epoch in range(2):
        net.set_epoch(epoch)
        for batch in range(5):
            net(images).sum().backward()
            modes.append(str(net.last_mode))
            if batch % 2 or batch == 4:  # two batches a step, and what is left at the end
                optimizer.step()
                optimizer.zero_grad()
    assert net.step == 6
    assert modes == ["full"] * 2 + ["low"] * 2 + ["full"] + ["low"] * 2 + ["full"] * 2 + ["low"]


def test_fine_tuning_in_two_fits() -> None:
    """warner-benjamin/fastxtend#11: a resizing schedule that began anew with the second fit, on unfrozen layers."""
    images = torch.randn(2, 3, 8, 8)
    model = nn.Sequential(conv(3, 4), conv(4, 4))
    net = net_of(model, images, period=3)
    modes = []
    for layers, steps in ((model[1], 4), (model, 5)):
        model.requires_grad_(False)
        layers.requires_grad_(True)
        optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.01)
        net.attach(optimizer)
        for _ in range(steps):
            optimizer.zero_grad()
            net(images).sum().backward()
            modes.append(str(net.last_mode))
            optimizer.step()
    assert modes == ["full", "full", "low"] * 3 and net.step == 9


def test_kernels_that_are_frozen_when_the_pair_is_built_are_reported() -> None:
    """jantic/DeOldify#479: convolutions frozen, norms not: which is what, and what trains?"""
    model, images = nn.Sequential(conv(3, 4), conv(4, 4), conv(4, 4)), torch.randn(2, 3, 8, 8)
    model[1][0].requires_grad_(False)
    pair = build_pair(model, images)
    pool = next(each for each in pair.report.passes if each.name == "pool_weights")
    assert [change.site for change in pool.changes] == ["2.0"]
    assert any(skip.site == "1.0" and "train" in skip.reason for skip in pool.skips)
    LowModeModel(pair, PeriodicSchedule(2), compile=False).train().run(Mode.LOW, images).sum().backward()
    assert model[1][0].weight.grad is None and model[1][1].weight.grad is not None


def test_a_detector_s_own_resizing() -> None:
    """torchgeo/torchgeo#2752: torchvision's detectors resize what they are given. So the backbone alone is low."""
    torch.manual_seed(0)
    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=2, width_mult=0.25
    )
    pair = build_pair(detector, torch.randn(2, 3, 320, 320), LowModeConfig(restore_output=True), submodule="backbone")
    detector.backbone = LowModeModel(pair, PeriodicSchedule(1), compile=False)
    boxes = torch.tensor([[4.0, 4.0, 60.0, 60.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1])} for _ in range(2)]
    losses = detector.train()(list(torch.rand(2, 3, 64, 64)), targets)
    assert detector.backbone.last_mode is Mode.LOW and all(torch.isfinite(loss) for loss in losses.values())
