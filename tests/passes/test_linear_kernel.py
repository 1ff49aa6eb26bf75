"""What the linear kernel promises: on a downsampled map it does what the whole kernel does on the map itself."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from passes.kernel_math import linear_kernel, linear_rows, pooled_padding, pooled_size

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def row(*values: float) -> Tensor:
    """One 1-D kernel of shape (1, 1, K)."""
    return torch.tensor([[values]], dtype=torch.float64)


# Literally -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "pooled", "ratio", "rows"),
    [
        (3, 3, 2, ((0.5, 0, 0), (0.5, 1, 0.5), (0, 0, 0.5))),
        (3, 3, 4, ((0.25, 0, 0), (0.75, 1, 0.75), (0, 0, 0.25))),
        (5, 3, 2, ((1, 0.5, 0, 0, 0), (0, 0.5, 1, 0.5, 0), (0, 0, 0, 0.5, 1))),
        (4, 3, 2, ((0.75, 0.25, 0, 0), (0.25, 0.75, 0.75, 0.25), (0, 0, 0.25, 0.75))),
        (2, 2, 2, ((0.75, 0.25), (0.25, 0.75))),
        (7, 3, 2, ((1, 1, 0.5, 0, 0, 0, 0), (0, 0, 0.5, 1, 0.5, 0, 0), (0, 0, 0, 0, 0.5, 1, 1))),  # folded
        (3, 1, 2, ((1, 1, 1),)),
        (1, 1, 2, ((1,),)),
        (3, 3, 1, ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
        (3, 3, "4/3", ((0.75, 0, 0), (0.25, 1, 0.25), (0, 0, 0.75))),
        (4, 3, "3/2", ((1, 1 / 3, 0, 0), (0, 2 / 3, 2 / 3, 0), (0, 0, 1 / 3, 1))),
    ],
)
def test_linear_rows(size: int, pooled: int, ratio: Any, rows: tuple[tuple[float, ...], ...]) -> None:
    for found, expected in zip(linear_rows(size, pooled, ratio), rows, strict=True):
        assert found == pytest.approx(expected, rel=1e-15)
        assert [not share for share in found] == [not share for share in expected], "no share is none at all"


@pytest.mark.parametrize(
    ("values", "pooled", "expected"),
    [
        ((1, 2, 3, 4, 5), 3, [2.0, 6.0, 7.0]),  # 1 + 2/2, 2/2 + 3 + 4/2, 4/2 + 5
        ((1, 2, 3, 4, 5), 1, [15.0]),
        ((2, 10, 6), 3, [1.0, 14.0, 3.0]),
        ((1, 2, 4, 8, 16, 32, 64), 3, [5.0, 18.0, 104.0]),
        ((1, 2, 4, 8, 16, 32, 64), 5, [0.5, 4.5, 18.0, 72.0, 32.0]),
    ],
)
def test_linear_kernel_by_2(values: tuple[float, ...], pooled: int, expected: list[float]) -> None:
    assert linear_kernel(row(*values), (pooled,), 2).tolist() == [[expected]]


def test_each_side_is_shared_by_itself() -> None:
    weight = torch.zeros(1, 1, 3, 5, 1, dtype=torch.float64)
    weight[0, 0, 2, 4, 0] = 16.0  # by 4 one quarter of the way down, one half to the right
    found = linear_kernel(weight, (3, 3, 1), 4)
    assert found.squeeze(-1).tolist() == [[[[0, 0, 0], [0, 6, 6], [0, 2, 2]]]]


# The promise ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A kernel that pools to one that covers it, and low-mode maps that are large enough for it.

    The ratio is p / q: on a grid of p steps to a pixel of the low-mode map, pixels of the full-mode map lie q apart.
    """

    ratio: Fraction
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]
    seed: int

    @property
    def dims(self) -> int:
        return len(self.kernel)

    @property
    def p(self) -> int:
        return self.ratio.numerator

    @property
    def q(self) -> int:
        return self.ratio.denominator

    @property
    def pooled(self) -> tuple[int, ...]:
        return tuple(pooled_size(size, self.ratio, "cover") for size in self.kernel)

    def maps(self, size: tuple[int, ...]) -> Tensor:
        """Random maps (2, 2, *size)."""
        return random_tensor((2, 2, *size), self.seed)

    def weight(self) -> Tensor:
        """A random kernel (3, 2, *K)."""
        return random_tensor((3, 2, *self.kernel), self.seed + 1)

    def interpolate(self, maps: Tensor, steps: int) -> Tensor:
        """Linear interpolation that puts pixel i of the maps (N, C, *S) on pixel ``steps`` · i."""
        size = [steps * (length - 1) + 1 for length in maps.shape[2:]]
        return F.interpolate(maps, size, mode=INTERPOLATION[self.dims], align_corners=True)


def random_tensor(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def cases(
    draw: st.DrawFn, kernels: tuple[int, ...], *, strides: int = 1, dilations: int = 1, whole: bool = False
) -> Case:
    ratio, dims = Fraction(draw(st.integers(2, 4))), draw(st.integers(1, 3))
    if not whole:
        ratio = draw(st.just(ratio) | st.fractions(1, 4, max_denominator=5))
    kernel = tuple(draw(st.sampled_from(kernels)) for _ in range(dims))
    stride = tuple(draw(st.integers(1, strides)) for _ in range(dims))
    dilation = tuple(draw(st.integers(1, dilations)) for _ in range(dims))
    size = tuple(
        step * (pooled_size(length, ratio, "cover") - 1) + jump + draw(st.integers(1, 3))
        for length, jump, step in zip(kernel, stride, dilation, strict=True)
    )
    return Case(ratio, kernel, stride, dilation, size, draw(st.integers(0, 2**16)))


def every(steps: tuple[int, ...], maps: Tensor, starts: tuple[int, ...], counts: tuple[int, ...]) -> Tensor:
    """``counts`` pixels a side of the maps (N, C, *S), ``steps`` apart."""
    for dim, (step, start, count) in enumerate(zip(steps, starts, counts, strict=True), start=2):
        maps = maps.index_select(dim, start + step * torch.arange(count))
    return maps


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert found.numel() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@given(cases((1, 3, 5, 7, 9), strides=2, whole=True))
@quick
def test_low_output_i_is_full_output_r_times_i(case: Case) -> None:
    """Kernels padded to their centre, with the padding and strides that low-mode gives them; padded pixels left out."""
    low, weight = case.maps(case.size), case.weight()
    full = case.interpolate(low, case.p)
    padding = [pooled_padding(k // 2, k // 2, k, p, 1) for k, p in zip(case.kernel, case.pooled, strict=True)]
    padded = F.pad(low, [amount for pair in reversed(padding) for amount in pair])
    found = CONVS[case.dims](padded, linear_kernel(weight, case.pooled, case.ratio), stride=case.stride)
    expected = CONVS[case.dims](full, weight, stride=case.stride, padding=tuple(k // 2 for k in case.kernel))

    margins = [pooled // 2 for pooled in case.pooled]
    first = tuple(-(-margin // jump) for margin, jump in zip(margins, case.stride, strict=True))
    last = [(n - 1 - margin) // jump for n, margin, jump in zip(case.size, margins, case.stride, strict=True)]
    counts = tuple(end - start + 1 for start, end in zip(first, last, strict=True))
    ones, ratios = (1,) * case.dims, (case.p,) * case.dims
    starts = tuple(case.p * start for start in first)
    assert_equal(every(ones, found, first, counts), every(ratios, expected, starts, counts))


@given(cases((1, 2, 3, 4, 5, 6, 7, 8, 9), strides=2))
@quick
def test_even_kernels_and_any_ratio_centre_on_centre(case: Case) -> None:
    """Taps of even kernels lie between pixels, so the grid has half steps too, and the kernel takes every 2q-th."""
    low, weight = case.maps(case.size), case.weight()
    found = CONVS[case.dims](low, linear_kernel(weight, case.pooled, case.ratio), stride=case.stride)
    expected = CONVS[case.dims](case.interpolate(low, 2 * case.p), weight, dilation=2 * case.q)
    starts = tuple(case.p * (p - 1) - case.q * (k - 1) for k, p in zip(case.kernel, case.pooled, strict=True))
    steps = tuple(2 * case.p * jump for jump in case.stride)
    assert_equal(found, every(steps, expected, starts, tuple(found.shape[2:])))


@given(cases((1, 3, 5, 7, 9), dilations=3))
@quick
def test_dilated_kernels_on_maps_without_curvature(case: Case) -> None:
    """Dilated taps are shared between low taps d pixels apart, over whose gaps only a straight map is interpolated."""
    corners, weight = case.maps((2,) * case.dims), case.weight()
    mode = INTERPOLATION[case.dims]
    low = F.interpolate(corners, case.size, mode=mode, align_corners=True)
    grid = F.interpolate(corners, [case.p * (n - 1) + 1 for n in case.size], mode=mode, align_corners=True)
    found = CONVS[case.dims](low, linear_kernel(weight, case.pooled, case.ratio), dilation=case.dilation)
    expected = CONVS[case.dims](grid, weight, dilation=tuple(case.q * step for step in case.dilation))
    starts = tuple(
        step * (case.p * (p - 1) - case.q * (k - 1)) // 2
        for k, p, step in zip(case.kernel, case.pooled, case.dilation, strict=True)
    )
    assert_equal(found, every((case.p,) * case.dims, expected, starts, tuple(found.shape[2:])))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(1, 4) | st.fractions(1, 4, max_denominator=9),
    st.integers(0, 2**16),
)
@quick
def test_the_sum_is_kept(sides: list[int], ratio: int | Fraction, seed: int) -> None:
    """Whether the pooled kernel covers the whole one or not."""
    weight = random_tensor((2, 2, *sides), seed)
    for rounding in ("ceil", "floor", "cover"):
        pooled = tuple(pooled_size(size, ratio, rounding) for size in sides)  # type: ignore[arg-type]
        result = linear_kernel(weight, pooled, ratio)
        assert tuple(result.shape[2:]) == pooled
        torch.testing.assert_close(result.flatten(2).sum(-1), weight.flatten(2).sum(-1), rtol=0, atol=1e-12)


def test_ratio_1_changes_nothing() -> None:
    for sides in itertools.product((1, 2, 3, 7), repeat=2):
        weight = random_tensor((2, 1, *sides), seed=0)
        assert torch.equal(linear_kernel(weight, sides, 1), weight)
