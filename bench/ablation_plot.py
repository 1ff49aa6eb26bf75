"""The ablation's pictures: accuracy over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.ablation_lines import Line
from lowmode_fx.utils.plotting import FAINT, INK, MARKERS, MUTED, SERIES, direct_label, draw_picture


def plot(found: Sequence[Line], path: Path, title: str) -> None:
    """Accuracy over time: full-mode's runs of several lengths joined in black, and a curve for every other arm.

    The most accurate arms have a colour; the others are grey and numbered. Curves show a part of the test images after
    each epoch, the points at their ends all test images.
    """
    draw_picture(path, 4.9 + 0.24 * len(found), lambda figure: _draw(figure, found, title))


def _draw(figure: Figure, found: Sequence[Line], title: str) -> None:
    axes = figure.add_subplot()
    bottom = _bottom(axes, found)
    handles = _full_mode(axes, found)
    arms = [line for line in found if not line.full]
    for number, line in enumerate(arms, start=1):
        colour, marker = (SERIES[number - 1], MARKERS[number - 1]) if number <= len(SERIES) else (FAINT, "o")
        times, values = zip(*line.curve, strict=True)
        front = 3 if colour != FAINT else 2
        axes.plot(times, [100 * value for value in values], color=colour, linewidth=front / 2, alpha=0.8, zorder=front)
        bar = 0 if math.isnan(line.error) else 100 * line.error
        axes.errorbar(line.time, 100 * line.accuracy, bar, fmt=marker, color=colour, capsize=3, zorder=front + 2)
        if 100 * line.accuracy >= bottom and colour == FAINT:
            aside = {"xytext": (-7, 0), "ha": "right"} if number % 2 else {"xytext": (7, 0)}
            direct_label(axes, str(number), (line.time, 100 * line.accuracy), MUTED, fontsize=9, **aside)
        below = " (below the picture)" if 100 * line.accuracy < bottom else ""
        place = f"{number}: " if colour == FAINT else ""
        label = f"{place}{100 * line.accuracy:.1f} % in the time of {line.time:.1f} epochs: {line.arm}{below}"
        handles.append(Line2D([], [], color=colour, marker=marker, label=label))
    axes.set(xlabel="training time in full epochs", ylabel="test accuracy in %", xlim=(0, None), title=title)
    figure.legend(handles=handles, loc="outside lower left", labelspacing=0.35)


def _full_mode(axes: Axes, found: Sequence[Line]) -> list[Any]:
    """Full-mode's accuracy in runs of several lengths."""
    ends = [(line.time, 100 * line.accuracy) for line in sorted(found, key=lambda line: line.time) if line.full]
    if not ends:
        return []
    label = "full-mode, in runs of several lengths"
    return axes.plot(*zip(*ends, strict=True), "o-", color=INK, linewidth=2.4, zorder=4, label=label)


def _bottom(axes: Axes, found: Sequence[Line]) -> float:
    """The lower end of the axis: arms that end far below the others are only listed in the legend."""
    every = sorted(100 * line.accuracy for line in found)
    if not every:
        return 0.0
    low = every[len(every) // 5]
    bottom = max(0.0, low - 1.5 * (every[-1] - low) - 2)
    axes.set_ylim(bottom, every[-1] + 1)
    return bottom
