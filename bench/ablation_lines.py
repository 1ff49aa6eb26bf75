"""The ablation's results, arm by arm: time, accuracy, and what full-mode reaches in the same time."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.harness import standard_error
from bench.plans import FULL


@dataclass(frozen=True)
class Line:
    """The seeds of one arm. Times in full epochs; accuracies in [0, 1]; ``error``: standard error of the mean.

    ``exact_time``: at the cost of low steps in float32; ``nan`` if it was not measured. ``epochs``: of all modes, so
    how often each image is seen.
    """

    arm: str
    time: float
    accuracy: float
    error: float
    seeds: int
    curve: tuple[tuple[float, float], ...]
    epochs: int
    exact_time: float = math.nan

    @property
    def full(self) -> bool:
        return self.arm.startswith("full-mode")

    @property
    def told(self) -> str:
        """The accuracy in percent, with its error and the number of seeds."""
        error = "" if math.isnan(self.error) else f" ± {100 * self.error:.2f}"
        return f"{100 * self.accuracy:.2f}{error} (n = {self.seeds})"


def lines(rows: Mapping[str, Any], network: str) -> list[Line]:
    """The arms of one network, the most accurate first."""
    measured = rows[f"{network} / study"]["costs"]
    costs = {FULL: 1.0, **{mode: cost["median"] for mode, cost in measured.items()}}
    exact = {FULL: 1.0, **{mode: cost.get("float32", {}).get("median", math.nan) for mode, cost in measured.items()}}
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for record in rows.values():
        if record.get("network") == network:
            by_arm.setdefault(record["arm"], []).append(record)
    found = []
    for arm, records in by_arm.items():
        curves = [_times(record["curve"], costs) for record in records]
        values = [record["accuracy"] for record in records]
        line = Line(
            arm,
            statistics.fmean(curve[-1][0] for curve in curves),
            statistics.fmean(values),
            standard_error(values),
            len(values),
            tuple((at[0][0], statistics.fmean(value for _, value in at)) for at in zip(*curves, strict=True)),
            len(records[0]["curve"]),
            statistics.fmean(_times(record["curve"], exact)[-1][0] for record in records),
        )
        found.append(line)
    return sorted(found, key=lambda line: -line.accuracy)


def _times(curve: Sequence[tuple[Mapping[str, int], float]], costs: Mapping[str, float]) -> list[tuple[float, float]]:
    """The time in full epochs at the end of each epoch, with the accuracy there."""
    time, found = 0.0, []
    for steps, accuracy in curve:
        time += math.fsum(costs[mode] * number for mode, number in steps.items() if number) / sum(steps.values())
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
