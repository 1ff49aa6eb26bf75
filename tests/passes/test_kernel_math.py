"""Kernel arithmetic: literal sizes, windows and paddings; transforms against the naive loops; gradients."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_kernels import naive_kernel_gradient, naive_pool_kernel, pooled_lengths
from torch import Tensor

from passes.kernel_math import (
    adaptive_windows,
    average_kernel,
    center_kernel,
    choose_windows,
    conv_output_size,
    custom_kernel,
    linear_kernel,
    paper_windows,
    pooled_padding,
    pooled_size,
    same_padding,
    tap_weights,
)

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)

SIZES = range(1, 12)


def row(*values: float) -> Tensor:
    """One 1-D kernel of shape (1, 1, K)."""
    return torch.tensor([[values]], dtype=torch.float64)


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "rounding", "pooled"),
    [
        (1, "ceil", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (1, "floor", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (1, "cover", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (2, "ceil", [1, 1, 1, 1, 3, 3, 3, 3, 5, 5, 5]),
        (2, "floor", [1, 1, 1, 1, 1, 3, 3, 3, 3, 5, 5]),
        (2, "cover", [1, 2, 3, 3, 3, 5, 5, 5, 5, 7, 7]),
        (3, "ceil", [1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3]),
        (3, "floor", [1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3]),
        (3, "cover", [1, 2, 3, 3, 3, 3, 3, 5, 5, 5, 5]),
        (4, "ceil", [1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3]),
        (4, "floor", [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (4, "cover", [1, 2, 3, 3, 3, 3, 3, 3, 3, 5, 5]),
        ("4/3", "ceil", [1, 1, 3, 3, 3, 5, 5, 5, 7, 7, 9]),
        (1.5, "floor", [1, 1, 1, 1, 3, 3, 3, 5, 5, 5, 7]),
        (Fraction(3, 2), "cover", [1, 2, 3, 3, 5, 5, 5, 7, 7, 7, 9]),
    ],
)
def test_pooled_size_of_kernels_1_to_11(ratio: Any, rounding: Any, pooled: list[int]) -> None:
    assert [pooled_size(size, ratio, rounding) for size in SIZES] == pooled


def test_rounding_is_up_by_default() -> None:
    assert (pooled_size(5, 2), pooled_size(5, 2, "floor")) == (3, 1)


# Windows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "ratio", "windows"),
    [
        (5, 2, ((0, 2), (2, 4), (4, 5))),  # one padded tap, after
        (6, 2, ((0, 2), (2, 4), (4, 6))),  # none
        (7, 3, ((0, 2), (2, 5), (5, 7))),  # one before, one after
        (8, 3, ((0, 3), (3, 6), (6, 8))),
        (9, 4, ((0, 3), (3, 7), (7, 9))),  # one before, two after
        (3, 3, ((0, 3),)),
        (2, 3, ((0, 2),)),
        (1, 2, ((0, 1),)),
    ],
)
def test_paper_windows(size: int, ratio: int, windows: Any) -> None:
    assert paper_windows(size, ratio) == windows


@pytest.mark.parametrize(
    ("size", "pooled", "windows"),
    [
        (7, 3, ((0, 3), (2, 5), (4, 7))),
        (5, 3, ((0, 2), (1, 4), (3, 5))),
        (8, 3, ((0, 3), (2, 6), (5, 8))),
        (3, 1, ((0, 3),)),
    ],
)
def test_adaptive_windows(size: int, pooled: int, windows: Any) -> None:
    assert adaptive_windows(size, pooled) == windows


@pytest.mark.parametrize(
    ("size", "pooled", "ratio", "adaptive", "windows"),
    [
        (5, 3, 2, False, ((0, 2), (2, 4), (4, 5))),
        (5, 3, 2, True, ((0, 2), (1, 4), (3, 5))),
        (7, 3, 2, False, ((0, 3), (2, 5), (4, 7))),  # ⌈7/2⌉ = 4 is even
        (7, 3, 3, False, ((0, 2), (2, 5), (5, 7))),
        (3, 1, 2, False, ((0, 3),)),  # the paper's 3×3 average for a 3×3 kernel
        (5, 1, 2, False, ((0, 5),)),  # rounded down
        (7, 3, "3/2", False, ((0, 3), (2, 5), (4, 7))),  # no window has 3/2 taps
    ],
)
def test_windows_are_the_papers_where_they_give_the_pooled_size(
    size: int, pooled: int, ratio: Any, adaptive: bool, windows: Any
) -> None:
    assert choose_windows(size, pooled, ratio, adaptive) == windows


def test_tap_weights_of_overlapping_windows() -> None:
    windows = ((0, 2), (1, 4), (3, 5))
    third = 1 / 3
    assert tap_weights(windows, 5, "mean") == ((0.5, 0.5, 0, 0, 0), (0, third, third, third, 0), (0, 0, 0, 0.5, 0.5))
    assert tap_weights(windows, 5, "sum") == ((1, 0.5, 0, 0, 0), (0, 0.5, 1, 0.5, 0), (0, 0, 0, 0.5, 1))


# Transforms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "adaptive", "expected"),
    [
        ("mean", False, [1.5, 3.5, 5.0]),
        ("sum", False, [3.0, 7.0, 5.0]),
        ("mean", True, [1.5, 3.0, 4.5]),
        ("sum", True, [2.0, 6.0, 7.0]),
    ],
)
def test_average_of_1_2_3_4_5(gain: Any, adaptive: bool, expected: list[float]) -> None:
    torch.testing.assert_close(
        average_kernel(row(1, 2, 3, 4, 5), (3,), 2, gain, adaptive), row(*expected), rtol=0, atol=1e-15
    )


def test_a_3x3_kernel_becomes_its_mean() -> None:
    weight = torch.arange(9.0, dtype=torch.float64).reshape(1, 1, 3, 3)
    assert average_kernel(weight, (1, 1), 2).tolist() == [[[[4.0]]]]
    assert average_kernel(weight, (1, 1), 2, "sum").tolist() == [[[[36.0]]]]


@pytest.mark.parametrize("transform", [average_kernel, linear_kernel])
def test_a_ratio_for_another_number_of_sides(transform: Any) -> None:
    with pytest.raises(ValueError, match=r"^ratio=\(1, 2\) has 2 sides, but there is 1; give one"):
        transform(row(1, 2, 3, 4, 5), (3,), (1, 2))


def test_a_side_that_keeps_its_size_is_left_alone() -> None:
    weight = torch.arange(6.0, dtype=torch.float64).reshape(1, 1, 2, 3)
    assert average_kernel(weight, (2, 1), 2).tolist() == [[[[1.0], [4.0]]]]


@pytest.mark.parametrize(("gain", "expected"), [("mean", [2.0, 3.0, 4.0]), ("sum", [10 / 3, 5.0, 20 / 3])])
def test_center_of_1_2_3_4_5(gain: Any, expected: list[float]) -> None:
    torch.testing.assert_close(center_kernel(row(1, 2, 3, 4, 5), (3,), gain), row(*expected), rtol=0, atol=1e-15)


RATIOS = st.integers(1, 4) | st.fractions(1, 4, max_denominator=9)


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Tensor, Any, str]:
    """A kernel (F, C, *K) of 1 to 3 spatial sides, a ratio, of all sides or one a side, and a rounding."""
    sides = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *sides)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    weight = torch.randn(shape, dtype=torch.float64, generator=generator)
    ratio = draw(RATIOS | st.tuples(*[RATIOS] * len(sides)))
    return weight, ratio, draw(st.sampled_from(["ceil", "floor", "cover"]))


def pooled_sizes(weight: Tensor, ratio: Any, rounding: Any) -> tuple[int, ...]:
    sides = tuple(weight.shape[2:])
    ratios = ratio if isinstance(ratio, tuple) else (ratio,) * len(sides)
    return tuple(pooled_size(*side, rounding) for side in zip(sides, ratios, strict=True))


@given(kernels(), st.sampled_from(["avg", "adaptive", "center", "linear"]), st.sampled_from(["mean", "sum"]))
@settings(parent=quick, max_examples=150)
def test_transforms_are_the_naive_loops(kernel: tuple[Tensor, Any, Any], transform: str, gain: Any) -> None:
    weight, ratio, rounding = kernel
    weight.requires_grad_()
    pooled = pooled_sizes(weight, ratio, rounding)
    if transform == "center":
        result = center_kernel(weight, pooled, gain)
    elif transform == "linear":
        result = linear_kernel(weight, pooled, ratio)
    else:
        result = average_kernel(weight, pooled, ratio, gain, transform == "adaptive")
    assert tuple(result.shape) == (*weight.shape[:2], *pooled_lengths(tuple(weight.shape[2:]), ratio, rounding))
    expected = naive_pool_kernel(weight, ratio, rounding=rounding, transform=transform, gain=gain)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)

    upstream = torch.linspace(-1, 2, result.numel(), dtype=torch.float64).reshape(result.shape)
    (found,) = torch.autograd.grad(result, weight, upstream)
    theirs = naive_kernel_gradient(
        upstream, tuple(weight.shape[2:]), ratio, rounding=rounding, transform=transform, gain=gain
    )
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-12)


@given(kernels(), st.booleans())
@quick
def test_gain_sum_keeps_the_sum_exactly(kernel: tuple[Tensor, Any, Any], adaptive: bool) -> None:
    weight, ratio, rounding = kernel
    weight = (100 * weight).round()  # whole numbers: their shares are whole eighths, so nothing is rounded
    pooled = pooled_sizes(weight, ratio, rounding)
    spatial = tuple(range(2, weight.ndim))
    result = average_kernel(weight, pooled, ratio, "sum", adaptive)
    assert torch.equal(result.sum(spatial), weight.sum(spatial))


@given(kernels(), st.booleans())
@quick
def test_gain_mean_keeps_a_constant(kernel: tuple[Tensor, Any, Any], adaptive: bool) -> None:
    weight, ratio, rounding = kernel
    pooled = pooled_sizes(weight, ratio, rounding)
    result = average_kernel(torch.full_like(weight, 0.75), pooled, ratio, "mean", adaptive)
    torch.testing.assert_close(result, torch.full_like(result, 0.75), rtol=0, atol=1e-15)


@pytest.mark.parametrize("gain", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(2, 1, 5), (2, 1, 7), (1, 2, 3, 5), (1, 1, 7, 1), (1, 1, 3, 5, 2)])
def test_gradients_numerically(shape: tuple[int, ...], gain: Any) -> None:
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pooled = tuple(pooled_size(size, 2) for size in shape[2:])
    covering = tuple(pooled_size(size, 2, "cover") for size in shape[2:])
    for adaptive in (False, True):
        assert torch.autograd.gradcheck(lambda w, a=adaptive: average_kernel(w, pooled, 2, gain, a), weight)
    assert torch.autograd.gradcheck(lambda w: center_kernel(w, pooled, gain), weight)
    for target in (pooled, covering):
        assert torch.autograd.gradcheck(lambda w, to=target: linear_kernel(w, to, 2), weight)
    assert torch.autograd.gradcheck(lambda w: custom_kernel(w, pooled, squared_centre, gain), weight)


# A user's transform --------------------------------------------------------------------------------------------------


def squared_centre(weight: Tensor, pooled: tuple[int, ...]) -> Tensor:
    return center_kernel(weight, pooled) ** 2


@pytest.mark.parametrize(("gain", "expected"), [("mean", [4.0, 9.0, 16.0]), ("sum", [20 / 3, 15.0, 80 / 3])])
def test_a_custom_transform(gain: Any, expected: list[float]) -> None:
    result = custom_kernel(row(1, 2, 3, 4, 5), (3,), squared_centre, gain)
    torch.testing.assert_close(result, row(*expected), rtol=0, atol=1e-14)


def test_a_custom_transform_of_the_wrong_shape() -> None:
    def forgetful(weight: Tensor, pooled: tuple[int, ...]) -> Tensor:
        return weight

    with pytest.raises(ValueError) as error:
        custom_kernel(torch.zeros(2, 4, 5, 1), (3, 1), forgetful)
    assert str(error.value) == (
        "kernel_transform 'forgetful' turned a kernel of shape (2, 4, 5, 1) into (2, 4, 5, 1); "
        "give one that returns (2, 4, 3, 1)"
    )


# Padding -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "size", "pooled", "dilation", "expected"),
    [
        (1, 1, 3, 1, 1, (0, 0)),
        (2, 2, 5, 3, 1, (1, 1)),
        (3, 3, 7, 3, 1, (1, 1)),
        (0, 0, 3, 1, 1, (-1, -1)),  # a crop
        (2, 2, 3, 1, 2, (0, 0)),
        (1, 1, 3, 1, 2, (-1, -1)),
        (1, 1, 4, 1, 1, (0, -1)),  # the odd one comes off the end
        (1, 2, 4, 1, 1, (0, 0)),
        (0, 1, 3, 1, 1, (-1, 0)),
        (3, 3, 6, 3, 2, (0, 0)),
        (5, 5, 11, 5, 1, (2, 2)),
        (2, 3, 5, 5, 3, (2, 3)),  # nothing pooled
    ],
)
def test_pooled_padding(
    before: int, after: int, size: int, pooled: int, dilation: int, expected: tuple[int, int]
) -> None:
    assert pooled_padding(before, after, size, pooled, dilation) == expected


@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 6), st.integers(0, 6)
)
@quick
def test_pooled_padding_keeps_the_output_size(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> None:
    for pooled in range(1, kernel + 1):
        pads = pooled_padding(before, after, kernel, pooled, dilation)
        assert conv_output_size(size, pooled, stride, sum(pads), dilation) == conv_output_size(
            size, kernel, stride, before + after, dilation
        )
        lost = (before - pads[0], after - pads[1])
        assert sum(lost) == dilation * (kernel - pooled) and 0 <= lost[1] - lost[0] <= 1


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3))
@quick
def test_conv_output_size_is_torchs(size: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    size = max(size, dilation * (kernel - 1) + 1)
    out = F.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), None, stride, padding, dilation)
    assert conv_output_size(size, kernel, stride, 2 * padding, dilation) == out.shape[-1]


@pytest.mark.parametrize(
    ("kernel", "dilation", "expected"), [(3, 1, (1, 1)), (5, 2, (4, 4)), (4, 1, (1, 2)), (2, 3, (1, 2)), (1, 1, (0, 0))]
)
def test_same_padding(kernel: int, dilation: int, expected: tuple[int, int]) -> None:
    assert same_padding(kernel, dilation) == expected


def test_the_pooled_kernel_stays_on_the_kernels_centre() -> None:
    """An impulse answered by a symmetric kernel comes out symmetric about the same place, whatever K' is."""
    image = torch.zeros(1, 1, 21, dtype=torch.float64)
    image[..., 10] = 1
    for kernel in (3, 5, 7, 9, 11):
        weight = torch.hann_window(kernel + 2, periodic=False, dtype=torch.float64)[1:-1].view(1, 1, -1)
        half = kernel // 2
        pooled = pooled_size(kernel, 2)
        answer = F.conv1d(
            F.pad(image, pooled_padding(half, half, kernel, pooled, 1)),
            average_kernel(weight, (pooled,), 2, adaptive=True),
        )
        torch.testing.assert_close(answer, answer.flip(-1), rtol=0, atol=1e-15)
        assert answer.argmax() == 10


def test_a_custom_transform_that_cuts_the_gradient_is_refused() -> None:
    def cut(weight: Tensor, pooled: tuple[int, ...]) -> Tensor:
        return weight.detach().mean((2, 3), keepdim=True)

    kernel = torch.ones(2, 3, 3, 3)
    assert custom_kernel(kernel, (1, 1), cut).shape == (2, 3, 1, 1), "a kernel that isn't trained has none"
    kernel.requires_grad_()
    with torch.no_grad():
        assert custom_kernel(kernel, (1, 1), cut).shape == (2, 3, 1, 1)
    with pytest.raises(ValueError, match=r"kernel_transform 'cut' gives the kernel no gradient; compute its result"):
        custom_kernel(kernel, (1, 1), cut)
