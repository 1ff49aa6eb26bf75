"""The oracle, held to numbers worked out by hand (and, where torch has the same operator, to torch)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import (
    EagerLowMode,
    RecordConvShapes,
    buffers_restored,
    low_resnet_forward,
    naive_conv,
    naive_kernel_gradient,
    naive_pool_kernel,
    pad_flat,
    pooled_length,
    pooled_lengths,
    pooled_padding,
    resnet_block_convs,
    same_padding,
    windows_of,
)
from torch import Tensor, nn


def row(*values: float) -> Tensor:
    """One 1-D kernel or signal of shape (1, 1, K)."""
    return torch.tensor([[values]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "rounding", "pooled"),
    [
        (1, "ceil", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (2, "ceil", [1, 1, 1, 1, 3, 3, 3, 3, 5]),
        (2, "floor", [1, 1, 1, 1, 1, 3, 3, 3, 3]),
        (3, "ceil", [1, 1, 1, 1, 1, 1, 3, 3, 3]),
        (3, "floor", [1, 1, 1, 1, 1, 1, 1, 1, 3]),
    ],
)
def test_pooled_length_of_kernels_1_to_9(ratio: int, rounding: str, pooled: list[int]) -> None:
    assert [pooled_length(kernel, ratio, rounding) for kernel in range(1, 10)] == pooled


def test_each_dimension_has_its_own_pooled_length() -> None:
    assert pooled_lengths((1, 7, 5), 2) == (1, 3, 3)


@pytest.mark.parametrize(
    ("kernel", "ratio", "rounding", "transform", "windows"),
    [
        (5, 2, "ceil", "avg", [[0, 1], [2, 3], [4]]),
        (6, 2, "ceil", "avg", [[0, 1], [2, 3], [4, 5]]),
        (6, 2, "floor", "avg", [[0, 1], [2, 3], [4, 5]]),
        (7, 3, "ceil", "avg", [[0, 1], [2, 3, 4], [5, 6]]),
        (2, 3, "ceil", "avg", [[0, 1]]),
        (1, 3, "ceil", "avg", [[0]]),
        (9, 2, "ceil", "avg", [[0, 1], [2, 3], [4, 5], [6, 7], [8]]),
        # ⌈3/2⌉ and ⌈7/2⌉ are even, so the windows are the adaptive ones; so they are where rounding down changed K'.
        (3, 2, "ceil", "avg", [[0, 1, 2]]),
        (7, 2, "ceil", "avg", [[0, 1, 2], [2, 3, 4], [4, 5, 6]]),
        (5, 2, "floor", "avg", [[0, 1, 2, 3, 4]]),
        (7, 2, "floor", "avg", [[0, 1, 2], [2, 3, 4], [4, 5, 6]]),
        (5, 2, "ceil", "adaptive", [[0, 1], [1, 2, 3], [3, 4]]),
        (8, 2, "ceil", "adaptive", [[0, 1, 2], [2, 3, 4, 5], [5, 6, 7]]),
        (5, 2, "ceil", "center", [[1], [2], [3]]),
        (6, 2, "ceil", "center", [[1], [2], [3]]),
        (4, 2, "ceil", "center", [[1]]),
        (5, 1, "ceil", "avg", [[0], [1], [2], [3], [4]]),
        (4, 1, "ceil", "adaptive", [[0], [1], [2], [3]]),
    ],
)
def test_windows(kernel: int, ratio: int, rounding: str, transform: str, windows: list[list[int]]) -> None:
    assert windows_of(kernel, ratio, rounding, transform) == windows


@pytest.mark.parametrize(
    ("transform", "gain", "expected"),
    [
        ("avg", "mean", [1.5, 3.5, 5.0]),
        ("avg", "sum", [3.0, 7.0, 5.0]),
        ("adaptive", "mean", [1.5, 3.0, 4.5]),
        ("adaptive", "sum", [2.0, 6.0, 7.0]),  # 1 + 2/2, 2/2 + 3 + 4/2, 4/2 + 5
        ("center", "mean", [2.0, 3.0, 4.0]),
        ("center", "sum", [10 / 3, 5.0, 20 / 3]),
    ],
)
def test_pooling_1_2_3_4_5_by_2(transform: str, gain: str, expected: list[float]) -> None:
    pooled = naive_pool_kernel(row(1, 2, 3, 4, 5), 2, transform=transform, gain=gain)
    torch.testing.assert_close(pooled, row(*expected), rtol=0, atol=1e-15)


def test_padded_taps_are_left_out_of_the_mean() -> None:
    torch.testing.assert_close(naive_pool_kernel(row(1, 2, 3, 4, 5, 6, 9), 3), row(1.5, 4.0, 7.5), rtol=0, atol=1e-15)


def test_pooling_a_rectangular_kernel() -> None:
    weight = torch.arange(15, dtype=torch.float64).reshape(1, 1, 3, 5)
    mean = naive_pool_kernel(weight, 2)  # rows all three; columns 0-1, 2-3, 4
    assert mean.tolist() == [[[[5.5, 7.5, 9.0]]]]
    total = naive_pool_kernel(weight, 2, gain="sum")
    assert total.tolist() == [[[[33.0, 45.0, 27.0]]]]


def test_pooling_3x3_to_1x1_is_the_mean() -> None:
    weight = torch.arange(1, 19, dtype=torch.float64).reshape(2, 1, 3, 3)
    assert naive_pool_kernel(weight, 2).tolist() == [[[[5.0]]], [[[14.0]]]]
    assert naive_pool_kernel(weight, 2, transform="center").tolist() == [[[[5.0]]], [[[14.0]]]]
    assert naive_pool_kernel(weight, 2, transform="center", gain="sum").tolist() == [[[[45.0]]], [[[126.0]]]]


def test_pooling_in_three_dimensions() -> None:
    weight = torch.zeros(1, 1, 5, 3, 1, dtype=torch.float64)
    weight[0, 0, 4, 1, 0] = 6.0
    pooled = naive_pool_kernel(weight, 2)
    assert pooled.shape == (1, 1, 3, 1, 1)
    assert pooled.flatten().tolist() == [0.0, 0.0, 2.0]  # the last window holds one plane of three taps


def test_pooling_agrees_with_torch_where_torch_has_the_operator() -> None:
    weight = torch.randn(2, 3, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(naive_pool_kernel(weight, 2), F.adaptive_avg_pool2d(weight, (3, 1)))
    weight = torch.randn(2, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pooled = F.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(naive_pool_kernel(weight, 2), pooled)


@pytest.mark.parametrize("gain", ["mean", "sum"])
def test_a_callable_gets_the_weight_and_the_pooled_size(gain: str) -> None:
    pooled = naive_pool_kernel(row(1, 2, 3, 4, 5), 2, transform=lambda weight, size: weight[..., : size[0]], gain=gain)
    scale = 5 / 3 if gain == "sum" else 1.0
    torch.testing.assert_close(pooled, scale * row(1, 2, 3), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("transform", "gain", "expected"),
    [
        ("avg", "mean", [3.0, 3.0, 6.0, 6.0, 30.0]),
        ("avg", "sum", [6.0, 6.0, 12.0, 12.0, 30.0]),
        ("adaptive", "mean", [3.0, 7.0, 4.0, 19.0, 15.0]),
        ("adaptive", "sum", [6.0, 9.0, 12.0, 21.0, 30.0]),
        ("center", "mean", [0.0, 6.0, 12.0, 30.0, 0.0]),
        ("center", "sum", [0.0, 10.0, 20.0, 50.0, 0.0]),
    ],
)
def test_the_gradient_6_12_30_handed_back_to_five_taps(transform: str, gain: str, expected: list[float]) -> None:
    gradient = naive_kernel_gradient(row(6, 12, 30), (5,), 2, transform=transform, gain=gain)
    torch.testing.assert_close(gradient, row(*expected), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("padding", "kernel", "pooled", "dilation", "expected"),
    [
        ((1, 1), 3, 1, 1, (0, 0)),
        ((2, 2), 5, 3, 1, (1, 1)),
        ((0, 0), 5, 3, 1, (-1, -1)),
        ((0, 0), 3, 1, 2, (-2, -2)),
        ((3, 3), 7, 3, 1, (1, 1)),
        ((1, 2), 4, 1, 1, (0, 0)),
        ((0, 0), 4, 1, 1, (-1, -2)),
        ((0, 1), 2, 1, 1, (0, 0)),
        ((1, 1), 1, 1, 1, (1, 1)),
    ],
)
def test_pooled_padding(
    padding: tuple[int, int], kernel: int, pooled: int, dilation: int, expected: tuple[int, int]
) -> None:
    assert pooled_padding((padding,), (kernel,), (pooled,), (dilation,)) == (expected,)


def test_same_padding_puts_the_odd_one_after() -> None:
    assert same_padding((3, 4, 4, 1), (1, 1, 2, 2)) == ((1, 1), (1, 2), (3, 3), (0, 0))


def test_pad_flat_starts_with_the_last_dimension() -> None:
    assert pad_flat(((1, 2), (3, 4))) == [3, 4, 1, 2]


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "expected"),
    [
        (1, (0, 0), 1, [321.0, 432.0, 543.0]),
        (1, (1, 1), 1, [210.0, 321.0, 432.0, 543.0, 54.0]),
        (2, (1, 1), 1, [210.0, 432.0, 54.0]),
        (1, (2, 0), 1, [100.0, 210.0, 321.0, 432.0, 543.0]),
        (1, (0, 1), 2, [531.0, 42.0]),
        (1, (-1, 0), 1, [432.0, 543.0]),
        (1, (0, -1), 1, [321.0, 432.0]),
        (1, (-1, 1), 1, [432.0, 543.0, 54.0]),
    ],
)
def test_naive_conv_of_1_2_3_4_5_with_1_10_100(
    stride: int, padding: tuple[int, int], dilation: int, expected: list[float]
) -> None:
    result = naive_conv(row(1, 2, 3, 4, 5), row(1, 10, 100), stride=(stride,), padding=(padding,), dilation=(dilation,))
    assert result.flatten().tolist() == expected


def test_naive_conv_in_groups_with_bias() -> None:
    images = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.float64)
    weight = torch.tensor([[[10.0]], [[100.0]]], dtype=torch.float64)
    bias = torch.tensor([0.5, 0.25], dtype=torch.float64)
    result = naive_conv(images, weight, bias, stride=(1,), padding=((0, 0),), dilation=(1,), groups=2)
    assert result.tolist() == [[[10.5, 20.5], [300.25, 400.25]]]


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [
        ((1, 1), ((0, 0), (0, 0)), (1, 1), 1),
        ((2, 1), ((1, 2), (0, 3)), (1, 2), 2),
        ((1, 2), ((-1, 1), (2, -2)), (2, 1), 4),
    ],
)
def test_naive_conv_in_two_dimensions_agrees_with_torch(
    stride: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 4, 6, 7, dtype=torch.float64, generator=generator)
    weight = torch.randn(4, 4 // groups, 3, 2, dtype=torch.float64, generator=generator)
    bias = torch.randn(4, dtype=torch.float64, generator=generator)
    expected = F.conv2d(F.pad(images, pad_flat(padding)), weight, bias, stride, 0, dilation, groups)
    result = naive_conv(images, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    torch.testing.assert_close(result, expected)


class TwoConvs(nn.Module):
    """A stem of one tap that multiplies by 2, then the taps 1, 2, 3, 4, 5."""

    def __init__(self, padding: int | str) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 1, 3, padding=1, bias=False, dtype=torch.float64)
        self.conv = nn.Conv1d(1, 1, 5, padding=padding, bias=False, dtype=torch.float64)
        self.stem.weight.data = row(0, 2, 0)
        self.conv.weight.data = row(1, 2, 3, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.stem(x).relu())


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (2, [27.0, 47.0, 67.0, 87.0, 107.0, 57.0]),
        ("same", [27.0, 47.0, 67.0, 87.0, 107.0, 57.0]),
        (0, [67.0, 87.0]),
        ("valid", [67.0, 87.0]),
    ],
)
def test_eager_low_mode_pools_all_but_the_stem(padding: int | str, expected: list[float]) -> None:
    """Ŵ = (1.5, 3.5, 5) slides over twice 1 … 6: first 3.5 · 2 + 5 · 4 = 27, then 1.5 · 2 + 3.5 · 4 + 5 · 6 = 47."""
    model = TwoConvs(padding)
    with EagerLowMode(2) as mode:
        result = model(row(1, 2, 3, 4, 5, 6))
    assert result.flatten().tolist() == expected
    (pooled,) = mode.pooled_kernels.values()
    assert pooled.tolist() == [[[1.5, 3.5, 5.0]]]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        ((5, 5), (1, 1), (2, 2), (1, 1), 1),
        ((5, 3), (2, 1), (0, 1), (1, 2), 2),
        ((4, 7), (3, 2), (1, 0), (1, 1), 1),
        ((2, 6), (1, 2), (0, 3), (2, 1), 4),
    ],
)
def test_eager_low_mode_is_the_naive_conv_with_the_pooled_kernel(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = nn.Conv2d(1, 4, 1, dtype=torch.float64)
        conv = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups, dtype=torch.float64)
        images = torch.randn(1, 1, 9, 11, dtype=torch.float64)
    with EagerLowMode(2):
        result = conv(stem(images))
    pooled = naive_pool_kernel(conv.weight, 2)
    pairs = tuple((side, side) for side in padding)
    pairs = pooled_padding(pairs, kernel, tuple(pooled.shape[2:]), dilation)
    expected = naive_conv(
        stem(images), pooled, conv.bias, stride=stride, padding=pairs, dilation=dilation, groups=groups
    )
    torch.testing.assert_close(result, expected)
    assert result.shape == conv(stem(images)).shape


def test_eager_low_mode_collects_the_gradient_of_the_pooled_kernel() -> None:
    model = TwoConvs(0)
    with EagerLowMode(2) as mode:
        model(row(1, 2, 3, 4, 5, 6)).sum().backward()
    pooled = mode.pooled_kernels[id(model.conv.weight)]
    assert pooled.grad is not None and pooled.grad.tolist() == [[[10.0, 14.0, 18.0]]]
    assert model.conv.weight.grad is None
    with EagerLowMode(2, leaves=False):
        model(row(1, 2, 3, 4, 5, 6)).sum().backward()
    assert model.conv.weight.grad is not None and model.conv.weight.grad.tolist() == [[[5.0, 5.0, 7.0, 7.0, 18.0]]]


def test_eager_low_mode_never_takes_a_depthwise_conv_to_one_tap() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 5, groups=4))
    with EagerLowMode(2) as mode:
        assert model(torch.randn(1, 2, 9, 9)).shape == (1, 4, 3, 3)
    assert set(mode.pooled_kernels) == {id(model[2].weight)}


def test_eager_low_mode_keeps_convs_without_overlap() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 2, stride=2), nn.Conv2d(4, 4, (1, 3), stride=(1, 2)))
    with EagerLowMode(2) as mode:
        assert model(torch.randn(1, 2, 8, 8)).shape == (1, 4, 4, 1)
    assert set(mode.pooled_kernels) == {id(model[2].weight)}


def test_eager_low_mode_pools_the_stem_and_patchifying_convs_with_all() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 2, stride=2), nn.Conv2d(4, 4, 3, groups=4))
    with EagerLowMode(2, pool_convs="all") as mode:
        assert model(torch.randn(1, 2, 8, 8)).shape == (1, 4, 1, 1)
    assert set(mode.pooled_kernels) == {id(model[0].weight), id(model[1].weight)}


@pytest.mark.parametrize("drop_maxpools", ["none", "all"])
def test_eager_low_mode_drops_maxpools(drop_maxpools: str) -> None:
    model = nn.Sequential(nn.MaxPool1d(2), nn.MaxPool1d(3, 1))
    with EagerLowMode(2, drop_maxpools=drop_maxpools):
        result = model(row(1, 2, 3, 4, 5, 6))
    assert result.flatten().tolist() == ([6.0] if drop_maxpools == "none" else [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


def test_eager_low_mode_keeps_the_size_of_a_transposed_conv() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.ConvTranspose1d(1, 1, 3, 1, 1, bias=False)).double()
    model[0].weight.data = row(1)
    model[1].weight.data = row(1, 2, 6)
    with EagerLowMode(2):
        assert model(row(1, 2, 3)).tolist() == [[[3.0, 6.0, 9.0]]]


def test_eager_low_mode_keeps_a_transposed_conv_that_would_leave_holes() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ConvTranspose1d(1, 1, 3, 2), nn.ConvTranspose1d(1, 1, 5, 2, 2, 1))
    with EagerLowMode(2) as mode:
        assert model(torch.randn(1, 1, 3)).shape == (1, 1, 14)
    assert set(mode.pooled_kernels) == {id(model[2].weight)}


def test_buffers_restored() -> None:
    model = nn.BatchNorm1d(2)
    with buffers_restored(model):
        model(torch.randn(4, 2))
        assert model.num_batches_tracked == 1
    assert model.num_batches_tracked == 0
    assert model.running_mean is not None and model.running_mean.tolist() == [0.0, 0.0]


def test_record_conv_shapes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 5, 2, stride=2, padding=1))
    with RecordConvShapes() as record:
        model(torch.randn(1, 3, 8, 6))
    assert record.shapes == [(1, 2, 6, 4), (1, 5, 4, 3)]


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


def test_low_resnet_forward_tells_pooled_convs_and_maxpool_apart() -> None:
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
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet50(num_classes=3).double()
    images = torch.randn(2, 3, 33, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with buffers_restored(model):
        expected = model(images)
    torch.testing.assert_close(low_resnet_forward(model, images, pooled=()), expected, rtol=1e-12, atol=1e-12)


def test_low_resnet_forward_pools_a_7x7_stem() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(num_classes=3).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pooled = naive_pool_kernel(model.conv1.weight, 2)
    low = low_resnet_forward(model, images, pooled=["conv1"])
    model.conv1.weight = nn.Parameter(F.pad(pooled, [2, 2, 2, 2]))
    torch.testing.assert_close(low, low_resnet_forward(model, images, pooled=()), rtol=1e-12, atol=1e-12)
