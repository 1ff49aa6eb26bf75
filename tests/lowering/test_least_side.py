"""``min_side``: images shrink as far as every map keeps its least side, and kernels with them."""

from __future__ import annotations

import pickle
import warnings
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowmode_fx import LowModeConfig, LowModeModel, ModePair, NoEffectWarning, PeriodicSchedule, build_pair
from passes.match import conv_sites
from passes.shapes import node_shape

quick = settings(max_examples=12, deadline=None, derandomize=True, database=None)


def halving(times: int, last: int = 3) -> nn.Sequential:
    """Convolutions whose maps are halved ``times``, a large kernel, and a head with a 1×1 map of its own."""
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, padding=1)]
    layers += [nn.Conv2d(4, 4, 3, 2, 1) for _ in range(times)]
    layers += [nn.Conv2d(4, 4, last, padding=last // 2), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.Flatten()]
    return nn.Sequential(*layers)


def build(model: nn.Module, sides: tuple[int, ...], **options: Any) -> ModePair:
    return build_pair(model, torch.zeros(2, 3, *sides), LowModeConfig(**options))


def least(pair: ModePair) -> int:
    """The smallest side of a convolution's map in low-mode, 1×1 ones aside."""
    sides = [side for site in conv_sites(pair.low) for side in node_shape(site.node)[2:]]
    return min(side for side in sides if side > 1)


@pytest.mark.parametrize(
    ("ratio", "min_side", "fitted"),
    [(2, 1, 2), (2, 4, 2), (2, 5, Fraction(8, 5)), (2, 7, Fraction(8, 7)), (4, 4, 2), (4, 2, 4), ("3/2", 4, "3/2")],
)
def test_the_ratio_is_the_largest_that_keeps_it(ratio: Any, min_side: int, fitted: Any) -> None:
    pair = build(halving(2, 7), (32, 32), ratio=ratio, min_side=min_side)
    assert pair.config.ratio == LowModeConfig(ratio=fitted).ratio == pair.config.effective_kernel_ratio
    assert least(pair) >= min_side
    told = any("min_side" in note for note in pair.report.notes)
    assert told is (pair.config.ratio != LowModeConfig(ratio=ratio).ratio)


@given(st.integers(0, 3), st.integers(1, 8), st.integers(2, 4), st.sampled_from([32, 48, 64]))
@quick
def test_every_map_keeps_it(times: int, min_side: int, ratio: int, side: int) -> None:
    if side >> times <= min_side:
        return
    assert least(build(halving(times), (side, side), ratio=ratio, min_side=min_side, kernel_ratio=1)) >= min_side


@pytest.mark.parametrize(
    ("ratio", "min_side", "fitted"), [("4/3", 6, "4/3"), ("4/3", 7, None), (2, 4, 2), (2, 5, Fraction(7, 5))]
)
def test_maps_are_as_large_as_they_are_in_low_mode(ratio: Any, min_side: int, fitted: Any) -> None:
    """28 → 14 → 7 in full-mode: at r = 4/3, 21 → 11 → 6, where 7 / (4/3) is 5.25; at r = 2, 14 → 7 → 4."""
    if fitted is None:
        with pytest.raises(ValueError, match=r"^min_side=7 leaves images as they are: the map at 2 has 7 pixels"):
            build(halving(2), (28, 28), ratio=ratio, min_side=min_side)
        return
    pair = build(halving(2), (28, 28), ratio=ratio, min_side=min_side)
    assert pair.config.ratio == LowModeConfig(ratio=fitted).ratio and least(pair) >= min_side


def test_borders_that_convolutions_cut_off_count() -> None:
    """32 → 30 → 28 → 26 in full-mode, and 20 → 18 → 16 → 14; at 13/7, which divides 26 to 14, 18 → 16 → 14 → 12."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1))
    pair = build(model, (32, 32), min_side=14, kernel_ratio=1)
    assert (pair.config.ratio, least(pair)) == (Fraction(8, 5), 14)
    assert pair.report.notes[0] == (
        "min_side=14 limits the ratio to 8/5 instead of 2: the map at 2 has 26 pixels a side in full-mode"
    )


def unpadded(count: int, kernel: int = 7) -> nn.Sequential:
    """Convolutions that each cut ``kernel - 1`` pixels off."""
    convs = [nn.Conv2d(3 if place == 0 else 4, 4, kernel) for place in range(count)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("count", "min_side", "side"),
    [
        (3, 10, 28),  # 32 → 26 → 20 → 14 in full-mode; 28 → 22 → 16 → 10
        (3, 13, 31),  # 31 → 25 → 19 → 13
        (4, 6, 30),  # 32 → 26 → 20 → 14 → 8; 30 → 24 → 18 → 12 → 6; at 8/6, 24 pixels leave none
        (4, 7, 31),
        (4, 2, 26),  # 26 → 20 → 14 → 8 → 2; at r = 2, 16 pixels leave none
    ],
)
@pytest.mark.parametrize("front_end", ["fx", "live"])
def test_images_grow_by_what_unpadded_kernels_lack(count: int, min_side: int, side: int, front_end: Any) -> None:
    config = LowModeConfig(min_side=min_side, kernel_ratio=1)
    pair = build_pair(unpadded(count), torch.zeros(2, 3, 32, 32), config, front_end=front_end)
    assert pair.report.low_input_shape == (2, 3, side, side) and least(pair) == min_side
    with pytest.raises(ValueError, match=f"^min_side={38 - 6 * count - 6} leaves images as they are"):
        build(unpadded(count), (32, 32), min_side=38 - 6 * count - 6)


STRIDED = st.tuples(st.sampled_from([7, 5, 3]), st.sampled_from([1, 1, 1, 2, 3]), st.sampled_from([False, False, True]))


@given(st.lists(STRIDED, min_size=2, max_size=4), st.integers(1, 4), st.sampled_from([32, 45, 64]))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_it_is_refused_where_no_smaller_image_keeps_it_alone(
    convs: list[tuple[int, int, bool]], fewer: int, side: int
) -> None:
    """Held against the sides that the model itself gives on every smaller image."""

    def maps(image: int) -> list[int]:
        found = []
        for kernel, stride, padded in convs:
            image = (image + 2 * (kernel // 2 * padded) - kernel) // stride + 1 if image > 0 else 0
            found.append(image)
        return found

    min_side = min(maps(side)) - fewer
    if min_side < 2:
        return
    fitting = [smaller for smaller in range(-(-side // 2), side) if min(maps(smaller)) >= min_side]
    layers = [nn.Conv2d(3, 3, kernel, stride, kernel // 2 * padded) for kernel, stride, padded in convs]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        if not fitting:
            with pytest.raises(ValueError, match=r"^min_side=\d+ leaves images as they are"):
                build(model, (side, side), min_side=min_side, kernel_ratio=1)
        else:
            pair = build(model, (side, side), min_side=min_side, kernel_ratio=1)
            assert pair.report.low_input_shape[-1] in fitting


def test_sides_are_rounded_first() -> None:
    """40 pixels at r = 2 are 20, rounded to 24 by multiples of 8: 24 → 12 → 6."""
    assert build(halving(2), (40, 40), min_side=6, size_multiple=8).config.ratio == 2
    assert build(halving(2), (40, 40), min_side=6).config.ratio == Fraction(5, 3)


def test_a_pool_that_is_dropped_leaves_its_maps_as_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1))
    assert build(model, (32, 32), min_side=16, drop_maxpools="all").config.ratio == 2
    assert build(model, (32, 32), min_side=12).config.ratio == Fraction(4, 3)


def test_strides_of_low_mode_that_no_image_makes_up_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    with pytest.raises(ValueError, match=r"^min_side=20 leaves images as they are: the map at [01] has 32 pixels"):
        build(model, (32, 32), ratio=(2, 1), min_side=20, strides={"1": (1, 2)}, kernel_ratio=1)


def test_each_side_has_its_own() -> None:
    pair = build(halving(2), (64, 32), ratio=4, min_side=6)
    assert pair.config.ratio == (Fraction(8, 3), Fraction(4, 3))
    assert pair.report.notes[0] == (
        "min_side=6 limits the ratio to 8/3×4/3 instead of 4: the map at 2 has 8 pixels a side in full-mode"
    )


def test_the_note_names_the_smallest_map_whichever_side_it_is_on() -> None:
    pair = build(halving(2), (32, 64), ratio=4, min_side=6)
    assert pair.report.notes[0] == (
        "min_side=6 limits the ratio to 4/3×8/3 instead of 4: the map at 2 has 8 pixels a side in full-mode"
    )


def test_a_least_side_that_no_ratio_gives_exactly() -> None:
    pair = build(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)), (128, 128), min_side=113)
    assert pair.config.ratio == Fraction(111, 98)  # of the fractions that a ratio can be, the largest up to 128/113
    assert least(pair) == 114


def test_maps_that_are_smaller_in_full_mode_do_not_count() -> None:
    assert build(halving(3), (32, 32), min_side=5).config.ratio == Fraction(8, 5)  # 4 pixels at the end; 8 before


def test_images_that_would_stay_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"^min_side=8 leaves images as they are: the map at 2 has 8 pixels"):
        build(halving(2), (32, 32), min_side=8)
    with pytest.raises(ValueError, match=r"^min_side=0 is too small; give an int of at least 1"):
        LowModeConfig(min_side=0)


def test_whole_images_keep_their_maps() -> None:
    pair = build(halving(2, 7), (32, 32), min_side=8, downsample_input=False)
    assert pair.config.ratio == 2 and pair.report.low_input_shape == (2, 3, 32, 32)


def test_a_low_step_gets_images_of_that_size() -> None:
    pair = build(halving(2, 7), (32, 32), min_side=5)
    net = LowModeModel(pair, PeriodicSchedule(2), compile=False)
    sizes: list[int] = []
    pair.model[0].register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[-1]))
    for mode in net.modes:
        net.run(mode, torch.randn(2, 3, 32, 32))
    assert sizes == [20, 32]


def test_a_pickled_pair_still_says_what_was_changed() -> None:
    pair = build(halving(2), (32, 32), min_side=5)
    assert pickle.loads(pickle.dumps(pair)).report == pair.report


def test_a_saved_configuration_is_the_same_again() -> None:
    config = build(halving(2), (32, 32), min_side=5).config
    assert LowModeConfig.from_dict(config.to_dict()) == config
    assert "min_side" not in LowModeConfig().to_dict()
