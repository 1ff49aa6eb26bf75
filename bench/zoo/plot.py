"""A sweep as a picture: the cost of low-mode, one dot per model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.zoo.record import Record
from lowmode_fx.utils.plotting import BLUE, GREEN, MUTED, VERMILLION, draw_picture, legend_below

#: Kinds of a record by its images and maps: label, colour and marker.
_KINDS = (
    (("fits", "rounded"), "half-size images", BLUE, "o"),
    (("resized",), "half-size images, a map resized inside", VERMILLION, "^"),
    (("whole",), "full-size images, only kernels pooled", GREEN, "X"),
)


def plot(records: Sequence[Record], path: Path) -> None:
    """Low macs divided by full macs, against full macs: one dot per right pair, by kind."""
    right = [record for record in records if record.status == "right" and record.full_macs]
    draw_picture(path, 4.6, lambda figure: draw(figure, right))


def draw(figure: Figure, records: Sequence[Record]) -> None:
    """The dots of right pairs, with a legend of the kinds that occur."""
    axes, handles = figure.add_subplot(), []
    for kinds, what, colour, marker in _KINDS:
        dots = [record for record in records if record.kind in kinds]
        if not dots:
            continue
        look = {"marker": marker, "color": colour, "markeredgecolor": "white", "markeredgewidth": 0.6}
        macs, ratios = [record.full_macs / 1e9 for record in dots], [record.ratio for record in dots]
        axes.plot(macs, ratios, linestyle="", markersize=7, alpha=0.75, **look)  # type: ignore[arg-type]
        label = f"{what} ({len(dots)})"
        handles.append(Line2D([], [], linestyle="", markersize=8, label=label, **look))  # type: ignore[arg-type]
    axes.axhline(0.25, color=MUTED, linewidth=1, linestyle="--")
    axes.set(xscale="log", ylim=(0, 1.05), xlabel="Gmacs per image in full-mode", ylabel="low / full macs")
    axes.annotate("half the resolution, kernels kept", (1, 0.25), xycoords=axes.get_yaxis_transform(), xytext=(-4, 5),
                  textcoords="offset points", ha="right", color=MUTED, fontsize=9.5)  # fmt: skip
    axes.set_title(f"Macs of low-mode divided by full-mode's: {len(records)} models")
    legend_below(figure, handles, 2)
