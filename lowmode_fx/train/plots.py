"""The picture of a run: validation accuracy over the seconds spent on training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lowmode_fx.train.records import EpochRecord
from lowmode_fx.utils.atomic import write_atomically

#: Told apart in grey, and by the colour-blind.
COLOURS = ("#6b7280", "#0f62fe", "#d97706", "#0f9d76", "#a33ea1", "#b91c1c")


def plot_curves(runs: Mapping[str, Sequence[EpochRecord]], path: Path, title: str = "") -> None:
    """Write a PNG with one line a run: accuracy in % over training seconds. The legend tells where each line ends.

    Raises `ValueError` when no run has an epoch.
    """
    drawn = {name: records for name, records in runs.items() if records}
    if not drawn:
        raise ValueError("nothing to plot: no run has finished an epoch")
    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for colour, (name, records) in zip(cycle(COLOURS), drawn.items(), strict=False):
        seconds = [record.total_seconds for record in records]
        accuracy = [100 * record.val_accuracy for record in records]
        label = f"{name}: {accuracy[-1]:.1f} % in {seconds[-1]:.0f} s"
        few = len(records) < 40
        axes.plot(seconds, accuracy, color=colour, linewidth=2 if few else 1.2, label=label)
        axes.plot(seconds, accuracy, "o" if few else "", color=colour, markersize=4)
        axes.plot(seconds[-1], accuracy[-1], "o", color=colour, markersize=8, clip_on=False, zorder=3)
    longest = max(records[-1].total_seconds for records in drawn.values())
    limits = _limits([100 * record.val_accuracy for records in drawn.values() for record in records])
    axes.set(xlim=(0, longest * 1.02), ylim=limits)
    axes.set_xlabel("training time in seconds, without evaluation and compilation")
    axes.set_ylabel("validation accuracy in %")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=True, edgecolor="none", framealpha=0.9, labelcolor="linecolor", fontsize=11)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """An axis for the part that matters: the lowest tenth, of the first epochs, may fall out at the bottom."""
    ordered = sorted(values)
    low = ordered[len(ordered) // 10]
    span = max(ordered[-1] - low, 5.0)
    return max(0.0, low - 0.25 * span), min(100.5, ordered[-1] + 0.1 * span)
