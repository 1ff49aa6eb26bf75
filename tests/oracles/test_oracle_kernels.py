"""The naive kernels and their geometry, held to numbers worked out by hand, and to torch where it has the operator."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from oracle_kernels import (
    linear_shares,
    naive_conv,
    naive_kernel_gradient,
    naive_pool_kernel,
    pad_flat,
    pooled_length,
    pooled_lengths,
    pooled_padding,
    same_padding,
    windows_of,
)
from torch import Tensor


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
        (Fraction(4, 3), "ceil", [1, 1, 3, 3, 3, 5, 5, 5, 7]),  # 0.75, 1.5, 2.25, 3, 3.75, 4.5, 5.25, 6, 6.75
        (Fraction(4, 3), "floor", [1, 1, 1, 3, 3, 3, 5, 5, 5]),
    ],
)
def test_pooled_length_of_kernels_1_to_9(ratio: int | Fraction, rounding: str, pooled: list[int]) -> None:
    assert [pooled_length(kernel, ratio, rounding) for kernel in range(1, 10)] == pooled


@pytest.mark.parametrize(
    ("ratio", "pooled"),
    [
        (1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (2, [1, 2, 3, 3, 3, 5, 5, 5, 5, 7, 7]),  # 3 taps reach 2 pixels to each side, 5 reach 4
        (3, [1, 2, 3, 3, 3, 3, 3, 5, 5, 5, 5]),
        (4, [1, 2, 3, 3, 3, 3, 3, 3, 3, 5, 5]),
        (Fraction(3, 2), [1, 2, 3, 3, 5, 5, 5, 7, 7, 7, 9]),  # 3 taps reach 1.5 pixels to each side, 5 reach 3
    ],
)
def test_length_that_covers_kernels_1_to_11(ratio: int | Fraction, pooled: list[int]) -> None:
    assert [pooled_length(kernel, ratio, "cover") for kernel in range(1, 12)] == pooled


def test_each_dimension_has_its_own_pooled_length() -> None:
    assert pooled_lengths((1, 7, 5), 2) == (1, 3, 3)
    assert pooled_lengths((7, 7, 7), (1, 2, Fraction(4, 3))) == (7, 3, 5)


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
        # The paper's windows are of whole taps: ⌈5 / (5/3)⌉ is odd, and the windows are the adaptive ones all the same.
        (5, Fraction(5, 3), "ceil", "avg", [[0, 1], [1, 2, 3], [3, 4]]),
    ],
)
def test_windows(kernel: int, ratio: int | Fraction, rounding: str, transform: str, windows: list[list[int]]) -> None:
    assert windows_of(kernel, ratio, rounding, transform) == windows


@pytest.mark.parametrize(
    ("kernel", "ratio", "rounding", "shares"),
    [
        (1, 2, "cover", [[1]]),
        (2, 2, "cover", [[0.75, 0.25], [0.25, 0.75]]),  # half a pixel from the centre is a quarter of a low one
        (3, 2, "cover", [[0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5]]),
        (3, 4, "cover", [[0.25, 0.75, 0], [0, 1, 0], [0, 0.75, 0.25]]),
        (4, 2, "cover", [[0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0.75, 0.25], [0, 0.25, 0.75]]),
        (5, 2, "cover", [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]),
        (3, 2, "ceil", [[1], [1], [1]]),
        # The outermost pooled taps lie 2 pixels from the centre: the taps beyond go to them whole.
        (7, 2, "ceil", [[1, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]]),
        (3, 1, "cover", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        (2, 1, "ceil", [[1, 0], [0, 1]]),
        (3, Fraction(4, 3), "cover", [[0.75, 0.25, 0], [0, 1, 0], [0, 0.25, 0.75]]),
    ],
)
def test_linear_shares(kernel: int, ratio: int | Fraction, rounding: str, shares: list[list[float]]) -> None:
    assert linear_shares(kernel, ratio, rounding) == shares


@pytest.mark.parametrize(
    ("transform", "gain", "expected"),
    [
        ("avg", "mean", [1.5, 3.5, 5.0]),
        ("avg", "sum", [3.0, 7.0, 5.0]),
        ("adaptive", "mean", [1.5, 3.0, 4.5]),
        ("adaptive", "sum", [2.0, 6.0, 7.0]),  # 1 + 2/2, 2/2 + 3 + 4/2, 4/2 + 5
        ("center", "mean", [2.0, 3.0, 4.0]),
        ("center", "sum", [10 / 3, 5.0, 20 / 3]),
        ("linear", "mean", [2.0, 6.0, 7.0]),  # 1 + 2/2, 2/2 + 3 + 4/2, 4/2 + 5, whatever the gain
        ("linear", "sum", [2.0, 6.0, 7.0]),
    ],
)
def test_pooling_1_2_3_4_5_by_2(transform: str, gain: str, expected: list[float]) -> None:
    pooled = naive_pool_kernel(row(1, 2, 3, 4, 5), 2, transform=transform, gain=gain)
    torch.testing.assert_close(pooled, row(*expected), rtol=0, atol=1e-15)


def test_three_taps_moved_by_distance_stay_three() -> None:
    """a, b, c by 2 → 0.5 a, 0.5 a + b + 0.5 c, 0.5 c."""
    assert naive_pool_kernel(row(2, 10, 6), 2, rounding="cover", transform="linear").tolist() == [[[1.0, 14.0, 3.0]]]
    assert naive_pool_kernel(row(2, 10, 6), 2, transform="linear").tolist() == [[[18.0]]]


def test_taps_beyond_the_outermost_are_folded_to_it() -> None:
    """1, 2 | 4 | 8 | 16 | 32, 64 by 2 → 1 + 2 + 4/2, 4/2 + 8 + 16/2, 16/2 + 32 + 64; "cover" has five taps instead."""
    weight = row(1, 2, 4, 8, 16, 32, 64)
    assert naive_pool_kernel(weight, 2, transform="linear").tolist() == [[[5.0, 18.0, 104.0]]]
    covered = naive_pool_kernel(weight, 2, rounding="cover", transform="linear")
    assert covered.tolist() == [[[0.5, 4.5, 18.0, 72.0, 32.0]]]


def test_linear_pooling_of_a_rectangular_kernel() -> None:
    """A tap of 16, by 4 one quarter of the way down from the centre and one half to the right: the shares multiply."""
    weight = torch.zeros(1, 1, 3, 5, dtype=torch.float64)
    weight[0, 0, 2, 4] = 16.0
    pooled = naive_pool_kernel(weight, 4, rounding="cover", transform="linear")
    assert pooled.tolist() == [[[[0.0, 0.0, 0.0], [0.0, 6.0, 6.0], [0.0, 2.0, 2.0]]]]


def test_linear_pooling_by_1_changes_nothing() -> None:
    weight = torch.arange(1, 13, dtype=torch.float64).reshape(1, 1, 4, 3)
    assert torch.equal(naive_pool_kernel(weight, 1, rounding="cover", transform="linear"), weight)


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
        ("linear", "mean", [6.0, 9.0, 12.0, 21.0, 30.0]),
        ("linear", "sum", [6.0, 9.0, 12.0, 21.0, 30.0]),
    ],
)
def test_the_gradient_6_12_30_handed_back_to_five_taps(transform: str, gain: str, expected: list[float]) -> None:
    gradient = naive_kernel_gradient(row(6, 12, 30), (5,), 2, transform=transform, gain=gain)
    torch.testing.assert_close(gradient, row(*expected), rtol=0, atol=1e-14)


def test_the_linear_gradient_4_8_16_handed_back_to_three_taps() -> None:
    """∂/∂a = (4 + 8)/2, ∂/∂b = 8, ∂/∂c = (8 + 16)/2; folded to one tap, each gets all of it."""
    gradient = naive_kernel_gradient(row(4, 8, 16), (3,), 2, rounding="cover", transform="linear")
    assert gradient.tolist() == [[[6.0, 8.0, 12.0]]]
    assert naive_kernel_gradient(row(5), (3,), 2, transform="linear").tolist() == [[[5.0, 5.0, 5.0]]]


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
