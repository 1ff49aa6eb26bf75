"""The picture of a run over the seconds spent on training: accuracy, loss, learning rate, and modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lowmode_fx.train.plot_bands import draw_band
from lowmode_fx.train.records import EpochRecord
from lowmode_fx.utils.plotting import INK, SERIES, draw_picture

#: Of runs, one after the other; black is the first's.
COLOURS = (INK, *SERIES)
#: In inches: the panels of accuracy, loss and learning rate, and each run's band of modes.
_HEIGHTS, _BAND = (4.0, 1.7, 1.1), 0.28
#: Rates that lie further apart than this are shown on a logarithmic axis.
_WIDE = 30


def plot_curves(runs: Mapping[str, Sequence[EpochRecord]], path: Path, title: str = "") -> None:
    """Write a PNG with one line a run, over training seconds: accuracy in %, loss and learning rate below each other.

    The legend shows the last value of each line. Where a run has low steps, a band for each run at the bottom shows
    the shares of its steps by mode, epoch by epoch. Raises ``ValueError`` when no run has an epoch.
    """
    drawn = {name: records for name, records in runs.items() if records}
    if not drawn:
        raise ValueError("nothing to plot: no run has finished an epoch")
    coloured = list(zip(cycle(COLOURS), drawn.items(), strict=False))
    bands = coloured if any(record.low_steps for records in drawn.values() for record in records) else []
    heights = [*_HEIGHTS, *[_BAND] * len(bands)]
    height = sum(heights) + 0.3 + 0.28 * len(drawn)
    draw_picture(path, height, lambda figure: _draw(figure, coloured, bands, heights, title))


_Coloured = Sequence[tuple[str, tuple[str, Sequence[EpochRecord]]]]


def _draw(figure: Figure, coloured: _Coloured, bands: _Coloured, heights: Sequence[float], title: str) -> None:
    accuracy, loss, rate, *below = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for colour, (name, records) in coloured:
        values = [100 * record.val_accuracy for record in records]
        label = f"{name}: {values[-1]:.1f} % in {records[-1].total_seconds:.0f} s"
        _curve(accuracy, records, values, colour, label)
        _curve(loss, records, [record.train_loss for record in records], colour)
        _steps(rate, records, [record.lr for record in records], colour)
    every = [record for _, (_, records) in coloured for record in records]
    longest = max(record.total_seconds for record in every)
    for band, (colour, (_, records)) in zip(below, bands, strict=True):
        draw_band(band, records, colour, longest)
    accuracy.set(xlim=(0, longest * 1.02), ylim=_limits([100 * record.val_accuracy for record in every]))
    accuracy.set(ylabel="validation accuracy in %", title=title)
    loss.set_ylabel("training loss")
    rate.set_ylabel("learning rate")
    rates = [record.lr for record in every if record.lr > 0]
    if rates and max(rates) > _WIDE * min(rates):
        rate.set_yscale("log")
    else:
        rate.set_ylim(bottom=0)
    if below:
        below[0].set_title("steps by mode, epoch by epoch", fontsize=9.5, pad=3)
    figure.align_ylabels([accuracy, loss, rate])
    [rate, *below][-1].set_xlabel("training time in seconds, without evaluation and compilation")
    figure.legend(handles=[*accuracy.get_legend_handles_labels()[0]], loc="outside lower left")


def _curve(axes: Axes, records: Sequence[EpochRecord], values: list[float], colour: str, label: str = "") -> None:
    seconds = [record.total_seconds for record in records]
    few = len(records) < 40
    axes.plot(seconds, values, color=colour, linewidth=2 if few else 1.2, label=label)
    axes.plot(seconds, values, "o" if few else "", color=colour, markersize=4)
    axes.plot(seconds[-1], values[-1], "o", color=colour, markersize=8, clip_on=False, zorder=3)


def _steps(axes: Axes, records: Sequence[EpochRecord], values: list[float], colour: str) -> None:
    """Each value over the whole of its epoch."""
    edges = [records[0].total_seconds - records[0].seconds, *(record.total_seconds for record in records)]
    axes.stairs(values, edges, baseline=None, color=colour, linewidth=2)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """An axis for the part that matters: the lowest tenth, of the first epochs, may fall out at the bottom."""
    ordered = sorted(values)
    low = ordered[len(ordered) // 10]
    span = max(ordered[-1] - low, 5.0)
    return max(0.0, low - 0.25 * span), min(100.5, ordered[-1] + 0.1 * span)
