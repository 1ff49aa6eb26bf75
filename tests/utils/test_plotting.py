"""One style for all pictures: the same file under any settings, and colours that the colour-blind tell apart."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from lowmode_fx.utils.plotting import INK, SERIES, draw_picture

#: What a protanope and a deuteranope see of linear RGB (Viénot, Brettel and Mollon 1999).
BLINDNESS = {
    "protanopia": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deuteranopia": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}


def draw(figure: Figure) -> None:
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label="a line")
    axes.legend()


def test_a_users_settings_change_no_picture(tmp_path: Path) -> None:
    draw_picture(tmp_path / "a.png", 2.0, draw)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 20}):
        draw_picture(tmp_path / "b.png", 2.0, draw)
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1200, 300)


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_colours_are_distinguishable(kind: str) -> None:
    def seen(colour: str) -> np.ndarray:
        return np.clip(np.array(BLINDNESS[kind]) @ np.array(to_rgb(colour)) ** 2.2, 0, 1) ** (1 / 2.2)

    near = {pair: np.abs(seen(pair[0]) - seen(pair[1])).max() for pair in combinations((INK, *SERIES), 2)}
    assert min(near.values()) > 0.1, min(near, key=lambda pair: near[pair])
