"""The runs of ``table1`` as the paper shows them: Table 1 beside the paper's own, Fig. 3 and Fig. 4."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.harness import standard_error
from bench.table1_recipe import ARMS, FULL, LOW
from lowmode_fx.utils.plotting import INK, MARKERS, SERIES, draw_picture
from lowmode_fx.utils.tables import markdown_table

#: Table 1: errors in % of full-mode and low-mode, change of the total time and cost of a low iteration in %.
PAPER = {"resnet18": ("ResNet-18", 6.7, 6.9, -18, 37), "resnet50": ("ResNet-50", 6.3, 6.4, -23, 39)}
#: The paper's row that the small form's network is compared with.
STANDS_FOR = {"resnet8": "resnet18"}
VELOCITY_EPOCHS = 3
Points = list[tuple[float, float]]


def of_arm(rows: Mapping[str, Any], name: str, arm: str, complete: bool = True) -> list[dict[str, Any]]:
    """The records of one arm, one per seed; without ``complete`` also those of unfinished runs."""
    found = [row for row in rows.values() if row.get("network") == name and row.get("arm") == arm]
    return [row for row in found if row["complete"] or (row["curve"] and not complete)]


def low_cost(rows: Mapping[str, Any], name: str, arm: str) -> float:
    """The time of an arm's low iteration divided by a full one's; 0 if it has none, or before it is measured."""
    found = rows.get(f"{name} / costs", {}).get(arm)
    return float(found["low / full"]["median"]) if found else 0.0


def curve(record: Mapping[str, Any], cost: float, gpu: bool) -> Points:
    """(time, accuracy) at each epoch's end: seconds of training on a GPU, elsewhere full epochs by cost."""
    time, points = 0.0, []
    for full, low, accuracy, seconds in record["curve"]:
        time += (full + cost * low) / (full + low)
        points.append((seconds if gpu else time, accuracy))
    return points


def velocity(points: Sequence[tuple[float, float]], window: int = VELOCITY_EPOCHS) -> Points:
    """(time, ΔA/Δτ) of each epoch from the second on: accuracy gained over time taken, averaged over ``window`` epochs.

    The window is centred; at both ends it is cut to what is there.
    """
    raw = [(then[0], (then[1] - before[1]) / (then[0] - before[0])) for before, then in pairwise(points)]
    half = window // 2
    near = [[value for _, value in raw[max(0, at - half) : at + half + 1]] for at in range(len(raw))]
    return [(time, statistics.fmean(values)) for (time, _), values in zip(raw, near, strict=True)]


def total_time(rows: Mapping[str, Any], name: str, arm: str, gpu: bool) -> float:
    """The mean total time of an arm's complete runs over full-mode's; ``nan`` if one of them is missing."""
    times = {}
    for each in (arm, FULL):
        runs = [curve(record, low_cost(rows, name, each), gpu) for record in of_arm(rows, name, each)]
        times[each] = statistics.fmean(points[-1][0] for points in runs) if runs else math.nan
    return times[arm] / times[FULL]


def table(rows: Mapping[str, Any], gpu: bool) -> str:
    """Markdown: the paper's Table 1 with ours below each row; errors in %, of the last epoch, mean over the seeds."""
    head = ("network", "", "full-mode", "low-mode", "full-mode in the same time", "resolution only")
    lines: list[tuple[str, ...]] = []
    for name in networks(rows):
        title, full, low, saved, iteration = PAPER[STANDS_FOR.get(name, name)]
        lines.append((title, "paper", f"{full}", f"{low}", "", "", f"{_signed(saved)} %", f"{iteration} %"))
        errors = (_error(of_arm(rows, name, arm)) for arm in ARMS)
        ratio = total_time(rows, name, LOW, gpu)
        change = "" if math.isnan(ratio) else f"{_signed(100 * (ratio - 1))} %"
        cost = low_cost(rows, name, LOW)
        lines.append((name, "here", *errors, change, f"{100 * cost:.0f} %" if cost else ""))
    return markdown_table((*head, "total time", "low / full"), lines, left=2)


def _error(records: Sequence[Mapping[str, Any]]) -> str:
    errors = [100 * (1 - record["accuracy"]) for record in records]
    if not errors:
        return ""
    if len(errors) == 1:
        return f"{errors[0]:.1f}"
    return f"{statistics.fmean(errors):.1f} ± {standard_error(errors):.1f}"


def _signed(percent: float) -> str:
    return f"{'−' if percent < 0 else '+'}{abs(percent):.0f}"


def networks(rows: Mapping[str, Any]) -> list[str]:
    """The networks that have a run, in order."""
    return list(dict.fromkeys(row["network"] for row in rows.values() if "network" in row))


def report(rows: Mapping[str, Any], path: Path, device: str, form: str) -> str:
    """Write ``.md`` and, for each network, both figures next to the result file, and return the table."""
    gpu = device == "cuda"
    lengths = sorted({record["epochs"] for name in networks(rows) for record in of_arm(rows, name, FULL, False)})
    epochs = " and ".join(map(str, lengths)) or "no"
    text = f"# Table 1 ({form}, {epochs} epochs in full-mode)\n\n{table(rows, gpu)}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(text)
    unit = "seconds" if gpu else "full epochs"
    for name in networks(rows):
        curves = {}
        for arm in ARMS:
            records = of_arm(rows, name, arm, complete=False)
            if records:  # the first seed's: the paper shows one run
                curves[arm] = curve(records[0], low_cost(rows, name, arm), gpu)
        gained = f"velocity ΔA/Δτ, points of accuracy per {unit.removesuffix('s')}"
        for number, ylabel, change in ((3, "validation accuracy in %", list), (4, gained, velocity)):
            lines = {arm: change(points) for arm, points in curves.items()}
            title = f"{name}: the paper's Fig. {number} ({form})"
            _plot(
                lines, path.with_name(f"{path.stem}_{name}_fig{number}.png"), title, f"training time in {unit}", ylabel
            )
    return text


def _plot(lines: Mapping[str, Points], path: Path, title: str, xlabel: str, ylabel: str) -> None:
    draw_picture(path, 4.8, lambda figure: _draw(figure, lines, title, xlabel, ylabel))


def _draw(figure: Figure, lines: Mapping[str, Points], title: str, xlabel: str, ylabel: str) -> None:
    axes = figure.add_subplot()
    for colour, marker, (arm, points) in zip((INK, *SERIES), MARKERS, lines.items(), strict=False):
        times, values = [time for time, _ in points], [100 * value for _, value in points]
        axes.plot(times, values, "-", color=colour)
        axes.plot(times[-1:], values[-1:], marker, color=colour, markersize=7)
        axes.plot([], [], marker, linestyle="-", color=colour, label=arm)
    axes.set(xlim=(0, None), xlabel=xlabel, ylabel=ylabel, title=title)
    if lines:
        figure.legend(loc="outside lower left", ncols=len(lines))
