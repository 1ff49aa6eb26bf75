"""A note says where low-mode's maps shrink to single pixels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowmode_fx import LowModeConfig, build_pair


def network(strides: int) -> nn.Module:
    """Halves its maps that often; ends in a squeeze whose map has one pixel in any mode."""
    layers = [nn.Conv2d(3 if place == 0 else 4, 4, 3, 2, 1) for place in range(strides)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.Flatten())


@pytest.mark.parametrize(
    ("side", "ratio", "told"),
    [
        (
            8,
            2,
            "the 2×2 map at 1 becomes 1×1: small networks that trained so ended below a shorter run in full-mode; "
            "give larger images or a smaller ratio",
        ),
        (
            16,
            4,
            "the 4×4 map at 1 becomes 1×1: small networks that trained so ended below a shorter run in full-mode; "
            "give larger images or a smaller ratio",
        ),
        (16, 2, ""),
        (
            4,
            2,
            "the 2×2 map at 0 becomes 1×1: small networks that trained so ended below a shorter run in full-mode; "
            "give larger images or a smaller ratio",
        ),
        (4, 1.5, ""),  # what has one pixel in full-mode has one in any
    ],
)
def test_maps_of_one_pixel_are_noted(side: int, ratio: float, told: str) -> None:
    pair = build_pair(network(2), torch.zeros(2, 3, side, side), LowModeConfig(ratio=ratio, kernel_ratio=1))
    assert [note for note in pair.report.notes if "map at" in note] == [told] * bool(told)
