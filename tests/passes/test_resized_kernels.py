"""Transforms for large kernels: bicubic is torch's own, ``pi_resize`` is the least squares that it claims to be."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowmode_fx import downsample
from passes.kernel_math import (
    average_kernel,
    bicubic_kernel,
    center_kernel,
    linear_kernel,
    pi_resize_kernel,
    pi_resize_rows,
    pooled_size,
)
from passes.kernel_math.pi_resize import NEIGHBOURS

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
double = torch.float64


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=double, generator=torch.Generator().manual_seed(seed))


# Bicubic -------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 15), st.integers(2, 51), st.data())
@quick
def test_bicubic_is_an_antialiased_resize(height: int, width: int, data: st.DataObject) -> None:
    pooled = data.draw(st.integers(1, height)), data.draw(st.integers(2, width))
    weight = random_tensor(2, 3, height, width)
    expected = F.interpolate(weight, pooled, mode="bicubic", antialias=True)
    torch.testing.assert_close(bicubic_kernel(weight, pooled), expected, rtol=0, atol=1e-12)


# The least squares ---------------------------------------------------------------------------------------------------


def by_definition(size: int, pooled: int, ratio: int, dilation: int) -> Tensor:
    """(K', K) by the definition alone: on maps of one side, cut by the ``downsample`` that cuts images.

    Maps are drawn from a covariance over any level: the rows are the kernels of least expected square error among those
    that answer to a constant map exactly.
    """
    half = 2 * ratio * (dilation * max(size, ratio * pooled) + 8)  # a multiple of the ratio, far from the borders
    places = torch.arange(2 * half + 1, dtype=double)
    maps = NEIGHBOURS ** (places[:, None] - places).abs()
    cut = downsample(torch.eye(len(places), dtype=double)[:, None], ratio)[:, 0].T  # (low pixels, pixels)
    middle = half // ratio
    low = cut[[middle + dilation * (tap - pooled // 2) for tap in range(pooled)]]
    # The answer of each tap of the whole kernel, blurred: the map moved by the tap's distance, and then cut.
    full = torch.stack([cut[middle].roll(dilation * (tap - size // 2)) for tap in range(size)])
    ones = torch.ones(pooled, 1, dtype=double)
    system = torch.cat([torch.cat([low @ maps @ low.T, ones], 1), torch.cat([ones.T, torch.zeros(1, 1).double()], 1)])
    wanted = torch.cat([low @ maps @ full.T, torch.ones(1, size, dtype=double)])
    return torch.linalg.solve(system, wanted)[:pooled]


@given(st.sampled_from([1, 3, 5, 7, 9, 13]), st.integers(2, 4), st.integers(1, 3), st.sampled_from(["ceil", "cover"]))
@quick
def test_it_is_the_least_squares_of_its_definition(size: int, ratio: int, dilation: int, rounding: Any) -> None:
    pooled = pooled_size(size, ratio, rounding)
    found = torch.tensor(pi_resize_rows(size, pooled, ratio, dilation), dtype=double)
    torch.testing.assert_close(found, by_definition(size, pooled, ratio, dilation), rtol=0, atol=1e-8)


RATIOS = st.integers(1, 4) | st.fractions(1, 4, max_denominator=7)


@given(st.integers(1, 31), RATIOS, st.integers(1, 3), st.sampled_from(["ceil", "floor", "cover"]))
@quick
def test_the_sum_is_kept_and_so_is_symmetry(size: int, ratio: int | Fraction, dilation: int, rounding: Any) -> None:
    rows = torch.tensor(pi_resize_rows(size, pooled_size(size, ratio, rounding), ratio, dilation), dtype=double)
    torch.testing.assert_close(rows.sum(0), torch.ones(size, dtype=double), rtol=0, atol=1e-9)
    torch.testing.assert_close(rows.flip(0, 1), rows, rtol=0, atol=1e-9)
    assert rows.abs().max() < 3  # nothing blows up, however ill the system


def test_ratio_1_changes_nothing() -> None:
    for sides in ((7,), (4, 5), (3, 2, 5)):
        weight = random_tensor(2, 1, *sides)
        found = pi_resize_kernel(weight, sides, 1, (1,) * len(sides))
        torch.testing.assert_close(found, weight, rtol=0, atol=1e-12)


def test_nothing_answers_nearer_than_it_does() -> None:
    """On white maps and on smooth ones, with kernels from 5×5 to 13×13, in the order that theory gives."""
    for size in (5, 7, 9, 13):
        for smoothing in (0, 3):
            maps = random_tensor(8, 1, 64, 64, seed=size)
            for _ in range(smoothing):
                maps = F.avg_pool2d(maps, 3, 1, 1)
            weight = random_tensor(4, 1, size, size, seed=1)
            pooled = (pooled_size(size, 2, "cover"),) * 2
            wanted = inner(downsample(F.conv2d(maps, weight, padding=size // 2), 2))
            errors = {
                name: float((inner(answer(maps, kernel)) - wanted).pow(2).mean() / wanted.pow(2).mean())
                for name, kernel in {
                    "pi_resize": pi_resize_kernel(weight, pooled, 2, (1, 1)),
                    "linear": linear_kernel(weight, pooled, 2),
                    "bicubic": bicubic_kernel(weight, pooled, "sum"),
                    "avg": average_kernel(weight, pooled, 2, "sum"),
                    "center": center_kernel(weight, pooled, "sum"),
                }.items()
            }
            assert min(errors, key=errors.__getitem__) == "pi_resize", (size, smoothing, errors)
            assert errors["pi_resize"] < errors["linear"] < errors["avg"] < errors["center"], (size, smoothing, errors)
            assert errors["pi_resize"] < (0.03 if smoothing else 0.25), (size, smoothing, errors)


def answer(maps: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(downsample(maps, 2), kernel, padding=kernel.shape[-1] // 2)


def inner(maps: Tensor) -> Tensor:
    """Without what borders decide."""
    return maps[..., 8:-8, 8:-8]


# Gains and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["avg", "bicubic", "center"])
def test_gain_norm_keeps_the_sum_of_squares_on_average(transform: str) -> None:
    weight = random_tensor(4000, 1, 9, 7)
    functions = {
        "avg": lambda: average_kernel(weight, (5, 3), 2, "norm"),
        "bicubic": lambda: bicubic_kernel(weight, (5, 3), "norm"),
        "center": lambda: center_kernel(weight, (5, 3), "norm"),
    }
    found = functions[transform]().pow(2).sum() / weight.pow(2).sum()
    assert float(found) == pytest.approx(1, abs=0.03)


def test_gain_sum_of_bicubic_times_the_taps() -> None:
    weight = torch.ones(1, 1, 7, 5, dtype=double)
    assert float(bicubic_kernel(weight, (3, 3), "sum").sum()) == pytest.approx(35)


@pytest.mark.parametrize("shape", [(2, 1, 9), (1, 2, 5, 7), (2, 1, 13, 5), (1, 1, 5, 3, 7)])
def test_gradients_numerically(shape: tuple[int, ...]) -> None:
    weight = random_tensor(*shape).requires_grad_()
    pooled = tuple(pooled_size(size, 2) for size in shape[2:])
    dilation = (1, 2, 1)[: len(pooled)]
    assert torch.autograd.gradcheck(lambda w: pi_resize_kernel(w, pooled, 2, dilation), weight)
    for gain in ("mean", "sum", "norm"):
        assert torch.autograd.gradcheck(lambda w, g=gain: bicubic_kernel(w, pooled, g), weight)
        assert torch.autograd.gradcheck(lambda w, g=gain: average_kernel(w, pooled, 2, g), weight)


@given(st.lists(st.integers(1, 13), min_size=1, max_size=3), RATIOS, st.integers(0, 2**16))
@quick
def test_every_side_is_taken_by_itself(sides: list[int], ratio: Any, seed: int) -> None:
    """A kernel of one side after the other, tap by tap, in plain sums."""
    pooled = tuple(pooled_size(size, ratio) for size in sides)
    weight = random_tensor(2, 2, *sides, seed=seed)
    expected = weight
    for dim, (size, target) in enumerate(zip(sides, pooled, strict=True), start=2):
        rows = pi_resize_rows(size, target, ratio)
        taps = [sum(value * expected.select(dim, tap) for tap, value in enumerate(row)) for row in rows]
        expected = torch.stack(taps, dim)  # type: ignore[arg-type]
    found = pi_resize_kernel(weight, pooled, ratio, (1,) * len(sides))
    assert math.prod(found.shape) > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
