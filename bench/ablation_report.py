"""The ablation's results: a table with the time that full-mode needs for the same accuracy, and a plot."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.harness import standard_error
from lowmode_fx.utils.plotting import FAINT, INK, MARKERS, MUTED, SERIES, direct_label, draw_picture
from lowmode_fx.utils.tables import markdown_table


@dataclass(frozen=True)
class Line:
    """The seeds of one arm. Times in full epochs; accuracies in [0, 1]; ``error``: standard error of the mean.

    ``exact_time``: at the cost of a low step in float32; ``nan`` if it was not measured.
    """

    arm: str
    time: float
    accuracy: float
    error: float
    seeds: int
    curve: tuple[tuple[float, float], ...]
    exact_time: float = math.nan

    @property
    def full(self) -> bool:
        return self.arm.startswith("full-mode")


def lines(rows: Mapping[str, Any], network: str) -> list[Line]:
    """The arms of one network, the most accurate first."""
    costs = rows[f"{network} / study"]["costs"]
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for record in rows.values():
        if record.get("network") == network:
            by_arm.setdefault(record["arm"], []).append(record)
    found = []
    for arm, records in by_arm.items():
        full = arm.startswith("full-mode")
        if not full and arm not in costs:
            continue  # an arm that another version of the script had
        cost = 0.0 if full else costs[arm]["median"]
        exact = 0.0 if full else costs[arm].get("float32", {}).get("median", math.nan)
        curves = [_times(record["curve"], cost) for record in records]
        values = [record["accuracy"] for record in records]
        error = standard_error(values)
        mean_curve = tuple((at[0][0], statistics.fmean(value for _, value in at)) for at in zip(*curves, strict=True))
        time = statistics.fmean(curve[-1][0] for curve in curves)
        exact_time = statistics.fmean(_times(record["curve"], exact)[-1][0] for record in records)
        found.append(Line(arm, time, statistics.fmean(values), error, len(values), mean_curve, exact_time))
    return sorted(found, key=lambda line: -line.accuracy)


def _times(curve: Sequence[Sequence[float]], cost: float) -> list[tuple[float, float]]:
    time, found = 0.0, []
    for full, low, accuracy in curve:
        time += (full + cost * low) / (full + low)
        found.append((time, accuracy))
    return found


def full_accuracy(found: Sequence[Line], time: float) -> float:
    """Full-mode's accuracy at that time, interpolated linearly between its runs of several lengths; ``nan`` outside."""
    runs = sorted((line.time, line.accuracy) for line in found if line.full)
    return _between(runs, time)


def full_time(found: Sequence[Line], accuracy: float) -> float:
    """The time that full-mode needs for that accuracy, interpolated; ``nan`` outside the range of its runs."""
    return _between(sorted((line.accuracy, line.time) for line in found if line.full), accuracy)


def _between(points: Sequence[tuple[float, float]], x: float) -> float:
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0) if x1 > x0 else y0
    return math.nan


def table(rows: Mapping[str, Any], network: str) -> str:
    """Markdown: one row per arm."""
    found = lines(rows, network)
    head: tuple[str, ...] = (
        "configuration",
        "low step / full",
        "time, full epochs",
        "at float32's cost",
        "test accuracy, %",
    )
    head += ("full-mode in the same time, %", "full-mode needs, epochs")
    costs = rows[f"{network} / study"]["costs"]
    body = []
    for line in found:
        cost = costs.get(line.arm, {}).get("median")
        spread = "" if math.isnan(line.error) else f" ± {100 * line.error:.2f}"
        exact = "" if math.isnan(line.exact_time) else f"{line.exact_time:.2f}"
        cells = [line.arm, "" if cost is None else f"{cost:.2f}", f"{line.time:.2f}", exact]
        cells += [f"{100 * line.accuracy:.2f}{spread} (n = {line.seeds})"]
        body.append([*cells, _percent(full_accuracy(found, line.time)), _number(full_time(found, line.accuracy))])
    return markdown_table(head, body)


#: The arms of the README's table, with their description, by network.
CASE = {
    "resnet8": {
        "full-mode, 16 epochs": "full-mode",
        "tuner's choice": "`tune`: r = 2, kernels kept, 14 low + 8 full epochs",
        "resolution only, progressive": "progressive resizing: 8 low + 8 full epochs",
        "the paper's setting, isolated norms": "the paper's setting, isolated norms",
        "the paper's setting": "the paper's setting",
    },
    "resnet8-5x5": {
        "full-mode, 12 epochs": "full-mode",
        "5×5 → 3×3 resampled, 19 low + 6 full epochs": "r = 2, kernels 5×5 → 3×3, 19 low + 6 full epochs",
        "r = 2, kernels kept, 14 low + 6 full epochs": "r = 2, kernels kept, 14 low + 6 full epochs",
        "resolution only, progressive": "progressive resizing: 6 low + 6 full epochs",
        "the paper's setting": "the paper's setting",
    },
}


def case(rows: Mapping[str, Any]) -> str:
    """Markdown: the README's table. Time saved is relative to the full-mode run of the same accuracy.

    An arm that ends above the longest full-mode run is compared with that run; one that ends below the shortest saves
    nothing.
    """
    head = ("kernels", "training", "time, full epochs", "test accuracy, %", "full-mode cut to the same time, %")
    body = []
    for network, arms in CASE.items():
        found = lines(rows, network)
        named = {line.arm: line for line in found}
        longest = max((line for line in found if line.full), key=lambda line: line.time)
        for arm, told in arms.items():
            line = named[arm]
            needs = longest.time if line.accuracy >= longest.accuracy else full_time(found, line.accuracy)
            saved = "" if line.full else "none" if math.isnan(needs) else f"{100 * (1 - line.time / needs):.0f} %"
            spread = "" if math.isnan(line.error) else f" ± {100 * line.error:.1f}"
            accuracy = f"{100 * line.accuracy:.1f}{spread} (n = {line.seeds})"
            cut = "" if line.full else f"{100 * full_accuracy(found, line.time):.1f}"
            kernels = "5×5" if network.endswith("5x5") else "3×3"
            body.append((kernels, told, f"{line.time:.1f}", accuracy, cut, saved))
    return markdown_table((*head, "time saved at equal accuracy"), body, left=2)


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def networks(rows: Mapping[str, Any]) -> list[str]:
    return [key.removesuffix(" / study") for key in rows if key.endswith(" / study")]


def report(rows: Mapping[str, Any], path: Path) -> None:
    """Write ``.md`` and a plot per network next to the result file; print the tables too."""
    parts = []
    for network in networks(rows):
        study = rows[f"{network} / study"]["study"]
        title = f"{network}, {study['images']:,} images of CIFAR-10, {study['epochs']} epochs in full-mode"
        parts.append(f"## {title}\n\n{table(rows, network)}")
        plot(lines(rows, network), path.with_name(f"{path.stem}_{network}.png"), title)
    text = "\n\n".join(parts) + "\n"
    path.with_suffix(".md").write_text(text)
    print(text)


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
