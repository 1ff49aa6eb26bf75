"""The measurements on a GPU, as the documentation's tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import standard_error
from bench.step_functions import COMPILED, KEPT, LOW, PLAIN_FULL, PLAIN_HALF, WHOLE
from lowmode_fx.utils.tables import markdown_table


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def training_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: time to accuracy, one row per arm, the most accurate first.

    Time saved is relative to full-mode of the same accuracy and the same kind of step, interpolated linearly between
    its runs of several lengths; it is left out if an arm is outside their range.
    """
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["what"] == "arm":
            arms.setdefault(row["arm"], []).append(row)
    found = sorted(((_mean(each, "accuracy"), name) for name, each in arms.items()), reverse=True)
    full = sorted((accuracy, _mean(arms[name], "seconds")) for accuracy, name in found if name.startswith("full-mode"))
    head = ["training", "seconds, captured", "seconds, uncaptured (from step times)", "test accuracy, %"]
    lines = []
    for accuracy, name in found:
        seconds, looped = (_mean(arms[name], key) for key in ("seconds", "seconds by a loop"))
        error = standard_error([row["accuracy"] for row in arms[name]]) if len(arms[name]) > 1 else None
        told = f"{accuracy:.1f}" + (f" ± {error:.1f}" if error is not None else "")
        saved = "" if name.startswith("full-mode") else _saved(full, accuracy, seconds)
        lines.append([name, f"{seconds:.1f}", f"{looped:.1f}", f"{told} (n = {len(arms[name])})", saved])
    return markdown_table([*head, "time saved at equal accuracy"], lines)


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.fmean(row[key] for row in rows)


def _saved(full: Sequence[tuple[float, float]], accuracy: float, seconds: float) -> str:
    accuracies, times = zip(*full, strict=True)
    if accuracy < accuracies[0]:
        return "none"
    if accuracy > accuracies[-1]:
        return ""
    return f"{100 * (1 - seconds / float(np.interp(accuracy, accuracies, times))):.0f} %"


def step_table(rows: Mapping[str, Any]) -> str:
    """Markdown: captured steps next to ``torch.compile``'s, launched kernel by kernel; one row per network."""
    head = ["network", "batch", "full step, `torch.compile`, ms", "half-size images / full", "full step, captured, ms"]
    head += ["pooled / full", "kernels kept / full"]
    lines = []
    for name, row in rows.items():
        if WHOLE not in row:  # started, but not finished in time
            continue
        whole, loop = row[WHOLE], row[COMPILED]
        ratios = [loop[f"{PLAIN_HALF} / full"]["median"] / loop[f"{PLAIN_FULL} / full"]["median"]]
        ratios += [whole[f"{mode} / full"]["median"] for mode in (LOW, KEPT)]
        times = [1000 * loop["seconds"][PLAIN_FULL]["median"], 1000 * whole["full seconds"]["median"]]
        cells = [f"{times[0]:.1f}", f"{ratios[0]:.2f}", f"{times[1]:.2f}", *(f"{ratio:.2f}" for ratio in ratios[1:])]
        lines.append([name, str(row["batch"]), *cells])
    return markdown_table(head, lines)


def cost_table(row: Mapping[str, Any]) -> str:
    """Markdown: the time of each mode's step divided by a full step's, captured and launched kernel by kernel."""
    kinds = row["seconds"]
    lines = [
        [mode, *(f"{1000 * kinds[kind][mode]:.1f}" for kind in kinds)]
        + [f"{kinds[kind][mode] / kinds[kind]['full']:.3f}" for kind in kinds]
        for mode in kinds["whole step"]
    ]
    head = ["mode", "captured, ms", "kernel by kernel, ms", "captured / full", "kernel by kernel / full"]
    return markdown_table(head, lines)
