"""The picture of a run: validation accuracy over the seconds spent on training, and which modes they were spent in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.train.records import EpochRecord, modes_of
from lowmode_fx.utils.plotting import INK, SERIES, draw_picture

#: Of runs, one after the other; black is the first's.
COLOURS = (INK, *SERIES)
_FULL = str(Mode.FULL)


def plot_curves(runs: Mapping[str, Sequence[EpochRecord]], path: Path, title: str = "") -> None:
    """Write a PNG with one line a run: accuracy in % over training seconds. The legend tells where each line ends.

    Where a run has low steps, a band for each run below shows the shares of its steps by mode, epoch by epoch.
    Raises ``ValueError`` when no run has an epoch.
    """
    drawn = {name: records for name, records in runs.items() if records}
    if not drawn:
        raise ValueError("nothing to plot: no run has finished an epoch")
    coloured = list(zip(cycle(COLOURS), drawn.items(), strict=False))
    bands = coloured if any(record.low_steps for records in drawn.values() for record in records) else []
    height = 4.6 + 0.28 * (len(bands) + len(drawn))
    draw_picture(path, height, lambda figure: _draw(figure, coloured, bands, title))


_Coloured = Sequence[tuple[str, tuple[str, Sequence[EpochRecord]]]]


def _draw(figure: Figure, coloured: _Coloured, bands: _Coloured, title: str) -> None:
    rows = 1 + len(bands)
    axes, *below = figure.subplots(rows, 1, sharex=True, height_ratios=[4.8, *[0.2] * len(bands)], squeeze=False)[:, 0]
    for colour, (name, records) in coloured:
        _curve(axes, name, records, colour)
    every = [records for _, (_, records) in coloured]
    longest = max(records[-1].total_seconds for records in every)
    for band, (colour, (_, records)) in zip(below, bands, strict=True):
        _band(band, records, colour, longest)
    limits = _limits([100 * record.val_accuracy for records in every for record in records])
    axes.set(xlim=(0, longest * 1.02), ylim=limits, ylabel="validation accuracy in %", title=title)
    [axes, *below][-1].set_xlabel("training time in seconds, without evaluation and compilation")
    if below:
        figure.align_labels()
        below[0].set_title("steps by mode, epoch by epoch", fontsize=9.5, pad=3)
    figure.legend(handles=[*axes.get_legend_handles_labels()[0]], loc="outside lower left")


def _curve(axes: Axes, name: str, records: Sequence[EpochRecord], colour: str) -> None:
    seconds = [record.total_seconds for record in records]
    accuracy = [100 * record.val_accuracy for record in records]
    label = f"{name}: {accuracy[-1]:.1f} % in {seconds[-1]:.0f} s"
    few = len(records) < 40
    axes.plot(seconds, accuracy, color=colour, linewidth=2 if few else 1.2)
    axes.plot([], [], "o-", color=colour, label=label)
    axes.plot(seconds, accuracy, "o" if few else "", color=colour, markersize=4)
    axes.plot(seconds[-1], accuracy[-1], "o", color=colour, markersize=8, clip_on=False, zorder=3)


def _band(axes: Axes, records: Sequence[EpochRecord], colour: str, longest: float) -> None:
    """The shares of each epoch's steps by mode, the cheapest at the bottom and palest; names stand where they fit."""
    modes = modes_of(records)
    strengths = [(place + 1) / (len(modes) + 1) for place in range(len(modes) - 1)]
    shades = {mode: _tint(colour, strength) for mode, strength in zip(modes, [*strengths, 1.0], strict=True)}
    for record in records:
        bottom = 0.0
        for mode, count in record.steps.items():
            share = count / sum(record.steps.values())
            axes.bar(record.total_seconds, share, -record.seconds, bottom, align="edge", color=shades[mode])
            bottom += share
    for label, group in groupby(records, key=_label):
        first, *_, last = [*group] * 2
        start, end = first.total_seconds - first.seconds, last.total_seconds
        if end - start > 0.012 * longest * (len(label) + 1):  # as long as its name
            text = axes.text((start + end) / 2, 0.47, label, ha="center", va="center_baseline", fontsize=8)
            if label == _FULL:
                text.set_color("white")
            else:
                text.set_path_effects([withStroke(linewidth=2, foreground="white")])
    axes.set(ylim=(0, 1), yticks=[])
    axes.grid(False)
    axes.tick_params(axis="x", length=0)
    axes.spines[:].set_visible(False)


def _label(record: EpochRecord) -> str:
    """The modes of an epoch's steps: ``r2``, or ``low + full``."""
    return " + ".join(mode for mode, count in record.steps.items() if count)


def _tint(colour: str, share: float) -> tuple[float, float, float]:
    """``share`` of the colour, the rest white."""
    red, green, blue = (1 - share * (1 - value) for value in to_rgb(colour))
    return red, green, blue


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """An axis for the part that matters: the lowest tenth, of the first epochs, may fall out at the bottom."""
    ordered = sorted(values)
    low = ordered[len(ordered) // 10]
    span = max(ordered[-1] - low, 5.0)
    return max(0.0, low - 0.25 * span), min(100.5, ordered[-1] + 0.1 * span)
