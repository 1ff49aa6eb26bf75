"""One style for every picture: colours, sizes and axes. A README shows a picture 800 pixels wide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lowmode_fx.utils.atomic import write_atomically

#: Text and full-mode; text beside it; what is not looked at; lines behind all.
INK, MUTED, FAINT, GRID = "#1f2937", "#5b6573", "#a3abb8", "#e5e7eb"
#: Okabe and Ito's colours, which the colour-blind tell apart.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
#: One line after the other; black is full-mode's.
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
#: Pale grounds behind text in blue and in vermillion.
PALE_BLUE, PALE_VERMILLION = "#e3f0f8", "#fdeadd"

#: Inches and dots: 1,200 pixels, of which a README shows two thirds.
_WIDTH, _DPI = 8.0, 150
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.labelsize": 10.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "text.color": INK,
    "svg.hashsalt": "lowmode_fx",
    "svg.fonttype": "path",
}


@contextmanager
def picture_style() -> Iterator[None]:
    """Whatever a user's settings of matplotlib are: the same picture is the same file."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def draw_picture(path: Path, height: float, draw: Callable[[Figure], None]) -> None:
    """Write a PNG, 1,200 pixels wide and ``height`` inches of 150 pixels high, that ``draw`` fills."""
    with picture_style():
        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        metadata = {"Software": None}  # which tells matplotlib's version
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", metadata=metadata))


def direct_label(axes: Axes, text: str, at: tuple[float, float], colour: str, **options: Any) -> None:
    """A line's name at its end, in its colour."""
    axes.annotate(text, at, textcoords="offset points", color=colour, va="center", **{"xytext": (7, 0), **options})


def legend_below(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    """What is drawn, below the picture."""
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, columnspacing=1.4, handletextpad=0.6)
