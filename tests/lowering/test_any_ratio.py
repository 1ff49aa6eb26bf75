"""Pairs of any ratio: what is downsampled, pooled and noted, and that a pair's three ways to downsample are one."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from tiny import IMAGES, Tiny, assert_shared, tiny_pair
from torch import nn

from lowmode_fx import LowModeConfig, PassError, build_ladder, build_pair, downsample
from lowmode_fx.lowering.live import LiveLowering
from lowmode_fx.lowering.networks import downsampling_graph

ratios = pytest.mark.parametrize(
    ("options", "low"),
    [
        ({"ratio": "4/3"}, (12, 12)),
        ({"ratio": 1.5, "input_method": "area"}, (11, 11)),
        ({"ratio": (1, 2)}, (16, 8)),
        ({"ratio": (Fraction(7, 4), 1), "kernel_ratio": 1, "input_method": "bilinear"}, (10, 16)),
        ({"ratio": 2, "size_multiple": 5}, (10, 10)),
        ({"ratio": "4/3", "downsample_input": False}, (16, 16)),
    ],
)


@ratios
@pytest.mark.filterwarnings("ignore::lowmode_fx.NoEffectWarning")
def test_a_pair_downsamples_alike_wherever_it_does(options: dict[str, Any], low: tuple[int, int]) -> None:
    pair = tiny_pair(**options)
    images = torch.randn(IMAGES)
    found = pair.downsample(images)
    assert tuple(found.shape[2:]) == pair.report.low_input_shape[2:] == low
    loader = pickle.loads(pickle.dumps(partial(downsample, **pair.config.downsampling)))
    assert torch.equal(loader(images), found)
    with_downsampling = downsampling_graph(pair, pair.rungs[0]).eval()
    expected = pair.low.eval()(found)
    assert torch.equal(with_downsampling(images), expected)
    expected.sum().backward()
    assert all(parameter.grad is not None for parameter in pair.model.parameters())
    for other in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert other.config == pair.config
        assert torch.equal(other.low.eval()(other.downsample(images)), expected)
        assert_shared(other)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"ratio": 4 / 3}, None),
        ({"ratio": (1, 2)}, None),
        ({"ratio": 1.5}, "16×16 is not divisible by 3/2: low-mode images are 11×11 (rounded up)"),
        ({"ratio": (2, 1.5)}, "16×16 is not divisible by 2×3/2: low-mode images are 8×11 (rounded up)"),
        ({"size_multiple": 4}, None),
        (
            {"ratio": 1.5, "size_multiple": 4},
            "16×16 by 3/2: low-mode images are 12×12 (rounded from 11×11 to multiples of 4)",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::lowmode_fx.NoEffectWarning")
def test_sides_that_are_no_quotient_are_noted(options: dict[str, Any], note: str | None) -> None:
    notes = [each for each in tiny_pair(**options).report.notes if "low-mode images" in each]
    assert notes == ([] if note is None else [note])


def test_a_side_of_one() -> None:
    """A signal as an image of one row: its ratio is one a side, or the images stay whole."""
    row = nn.Sequential(nn.Conv2d(1, 4, (1, 5), padding=(0, 2)), nn.Conv2d(4, 4, (1, 7), padding=(0, 3)))
    images = torch.randn(2, 1, 1, 64)
    with pytest.raises(ValueError, match=r"\(1, 64\); give ratio=\(1, 2\), one per side, or downsample_input=False"):
        build_pair(row, images)
    pair = build_pair(row, images, LowModeConfig(ratio=(1, 2)))
    assert [(change.site, change.after) for change in pair.report.pooled] == [("1", "1×3")]
    assert pair.low(pair.downsample(images)).shape == (2, 4, 1, 32)


def test_a_clip_of_one_frame() -> None:
    clip = nn.Sequential(nn.Conv3d(3, 4, (1, 3, 3)), nn.Conv3d(4, 4, 3, padding=1))
    images = torch.randn(2, 3, 1, 16, 16)
    with pytest.raises(ValueError, match=r"; give ratio=\(1, 2, 2\), one per side, or"):
        build_pair(clip, images)
    pair = build_pair(clip, images, LowModeConfig(ratio=(1, 2, 2)))
    assert [(change.site, change.after) for change in pair.report.pooled] == [("1", "3×1×1")]
    assert pair.low(pair.downsample(images)).shape == (2, 4, 1, 6, 6)


def test_a_ratio_for_another_number_of_sides() -> None:
    with pytest.raises(ValueError, match=r"^ratio=\(1, 2, 2\) has 3 sides, but there are 2; give"):
        build_pair(Tiny(), torch.zeros(IMAGES), LowModeConfig(ratio=(1, 2, 2)))


def test_a_network_that_halves_five_times_takes_multiples_of_32() -> None:
    """Each halving is undone later, and joined: 112 = 2⁴ · 7 comes back as 128."""

    class Hourglass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 3, padding=1)
            self.halve, self.grow = nn.AvgPool2d(2), nn.Upsample(scale_factor=32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = small = self.body(self.stem(x))
            for _ in range(5):
                small = self.halve(small)
            return x + self.grow(small)

    images = torch.randn(2, 3, 224, 224)
    with pytest.raises(PassError, match=r"112×112 inputs"):
        build_pair(Hourglass(), images)
    pair = build_pair(Hourglass(), images, LowModeConfig(size_multiple=32))
    assert pair.low(pair.downsample(images)).shape == (2, 2, 128, 128)


# Low steps ------------------------------------------------------------------------------------------------------------


@ratios
@pytest.mark.filterwarnings("ignore::lowmode_fx.NoEffectWarning")
def test_the_model_under_live_lowering_does_what_the_graph_does(options: dict[str, Any], low: tuple[int, int]) -> None:
    pair = tiny_pair(**options, kernel_transform="linear", rounding="cover")
    pair.model.drop.p = 0.0
    images = torch.randn(IMAGES)
    expected = pair.low(pair.downsample(images))
    assert torch.equal(LiveLowering(pair).run(pair.downsample(images)), expected)
    assert torch.equal(LiveLowering(pair, downsample=True).run(images), expected)


@pytest.mark.parametrize("options", [{"ratio": "4/3"}, {"ratio": (1, 1.5), "size_multiple": 3}])
def test_low_steps_compile_without_a_break(options: dict[str, Any]) -> None:
    pair = tiny_pair(**options, kernel_transform="linear", rounding="cover")
    pair.model.drop.p = 0.0
    images = torch.randn(IMAGES)
    expected = pair.low(pair.downsample(images))
    torch._dynamo.reset()
    live = LiveLowering(pair, downsample=True)
    live.callable = torch.compile(live.forward, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(live.run(images), expected)
    graph = torch.compile(downsampling_graph(pair, pair.rungs[0]).forward, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(graph(images), expected)


@pytest.mark.parametrize(
    ("options", "sides", "restored"),
    [
        ({"ratio": 2}, (10, 12), (20, 24)),
        ({"ratio": "4/3"}, (9, 15), (12, 20)),
        ({"ratio": (1, 2)}, (16, 10), (16, 20)),
        ({"ratio": 2, "size_multiple": 5}, (10, 15), (16, 24)),  # 16 became 10, so 15 was 24
    ],
)
@pytest.mark.filterwarnings("ignore::lowmode_fx.NoEffectWarning")
def test_maps_of_other_sizes_are_restored_by_the_ratio(
    options: dict[str, Any], sides: tuple[int, int], restored: tuple[int, int]
) -> None:
    """Where the images come downsampled, by a loader, and not of the example's size."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    pair = build_pair(model, torch.zeros(IMAGES), LowModeConfig(restore_output=True, **options))
    assert LiveLowering(pair).run(torch.randn(2, 3, *sides)).shape == (2, 4, *restored)


def test_rungs_are_named_after_their_ratios_and_stand_in_order_of_their_pixels() -> None:
    ratios: list[Any] = [(1, 2), 1.5, (2, "3/2"), 2, (1, "4/3")]
    configs = [LowModeConfig(ratio=ratio, kernel_ratio=1) for ratio in ratios]
    whole = LowModeConfig(downsample_input=False)
    ladder = build_ladder(Tiny(), torch.zeros(IMAGES), [*configs, whole])
    assert [str(mode) for mode in ladder.modes] == ["r2", "r2x3/2", "r3/2", "r1x2", "r1x4/3", "whole", "full"]
