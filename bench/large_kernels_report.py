"""Results of the runs with large kernels: a table for each study, the most accurate arm first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import standard_error
from lowmode_fx.utils.tables import markdown_table


@dataclass(frozen=True)
class Line:
    """The seeds of one arm: time in full epochs, accuracy in [0, 1], ``error`` of the mean."""

    arm: str
    budget: float
    epochs: str
    time: float
    accuracy: float
    error: float
    seeds: int


def lines(rows: Mapping[str, Any], study: str) -> list[Line]:
    """The arms of a study, by their time and then by accuracy."""
    grouped: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows.values():
        if row.get("study") == study and "arm" in row:
            grouped.setdefault((row["arm"], row["budget"]), []).append(row)
    found = []
    for (arm, budget), records in grouped.items():
        values = [record["accuracy"] for record in records]
        error = standard_error(values)
        plan = " + ".join(f"{count} {mode}" for mode, count in records[0]["epochs"].items())
        time = statistics.fmean(record["time"] for record in records)
        found.append(Line(arm, budget, plan, time, statistics.fmean(values), error, len(values)))
    return sorted(found, key=lambda line: (-line.budget, -line.accuracy))


def tables(rows: Mapping[str, Any]) -> Iterator[str]:
    """Markdown: costs and arms of each study."""
    for key, row in rows.items():
        if not key.endswith(" / prices"):
            continue
        study = key.removesuffix(" / prices")
        costs = ", ".join(
            f"{mode} {cost['median']:.3f}" for mode, cost in row["prices"].items() if not mode.startswith("seconds")
        )
        yield f"### {study}\n\nCost of a low step (time of a full step = 1): {costs}.\n"
        cells = [
            (line.arm, line.epochs, f"{line.time:.2f}", _accuracy(line), str(line.seeds)) for line in lines(rows, study)
        ]
        yield markdown_table(("arm", "epochs", "time, full epochs", "test accuracy, %", "seeds"), cells)


#: Arms of the README's table by their names and budgets, with their description.
CASE = {
    ("full-mode", 1.0): "full-mode",
    ("averaged, rate over time", 0.5): 'r = 2, kernels 13×13 → 7×7 (`"avg"`, the default), rate over time',
    ("bicubic, rate over time", 0.5): 'r = 2, kernels 13×13 → 7×7 (`"bicubic"`), rate over time',
    ("Composer's ramp, rate over time", 0.5): "Composer's sizes, kernels kept, with our rate over time",
    ("Composer's ramp", 0.5): "Composer's progressive resizing, kernels kept",
    ("full-mode, cut", 0.5): "full-mode, cut",
    ("bicubic from r = 8/3, rate over time", 0.25): 'r = 8/3 for 7 epochs, then 2 (`"bicubic"`), rate over time',
    ("bicubic from r = 8/3, rate over time", 0.2): 'r = 8/3 for 5 epochs, then 2 (`"bicubic"`), rate over time',
    ("Composer's ramp, rate over time", 0.25): "Composer's sizes, kernels kept, with our rate over time",
    ("full-mode, cut", 0.25): "full-mode, cut",
}


def case(rows: Mapping[str, Any], study: str) -> str:
    """The README's table: full-mode, and what a half and a quarter of its time buy."""
    found = {(line.arm, line.budget): line for line in lines(rows, study)}
    shown = [(name, found[key]) for key, name in CASE.items()]
    cells = [
        (name, _low_and_full(line.epochs), f"{line.time:.1f}", f"{_accuracy(line)} (n = {line.seeds})")
        for name, line in shown
    ]
    return markdown_table(("training", "epochs", "time, full epochs", "test accuracy, %"), cells)


def _low_and_full(epochs: str) -> str:
    """``20 low + 2 full`` of ``16 kept 4 + 4 kept 5 + 2 full``."""
    counts = [int(part.split()[0]) for part in epochs.split(" + ")]
    return " + ".join([*([f"{sum(counts[:-1])} low"] if counts[:-1] else []), f"{counts[-1]} full"])


def _accuracy(line: Line) -> str:
    told = f"{100 * line.accuracy:.2f}"
    return told if math.isnan(line.error) else f"{told} ± {100 * line.error:.2f}"


def report(rows: Mapping[str, Any], path: Path) -> None:
    """Write the tables as a Markdown file next to the result file, and print them."""
    text = "\n".join(tables(rows))
    path.with_suffix(".md").write_text(text + "\n")
    print(text)
