"""Of which modes a run's epochs were, as a band below its curves: the shares of each epoch's steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patheffects import withStroke

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.train.records import EpochRecord, modes_of

_FULL = str(Mode.FULL)


def draw_band(axes: Axes, records: Sequence[EpochRecord], colour: str, longest: float) -> None:
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
