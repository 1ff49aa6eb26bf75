"""The ablation's results: a table with the time that full-mode needs for the same accuracy, and a plot."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.ablation_lines import full_accuracy, full_time, lines
from bench.ablation_plot import plot
from bench.ablation_studies import CIFAR
from lowmode_fx.utils.tables import markdown_table


def table(rows: Mapping[str, Any], network: str) -> str:
    """Markdown: one row per arm."""
    found = lines(rows, network)
    head = ("configuration", "epochs", "time, full epochs", "at float32's cost", "test accuracy, %")
    more = ("full-mode in the same time, %", "full-mode needs, epochs")
    body = []
    for line in found:
        cells = [line.arm, str(line.epochs), f"{line.time:.2f}", f"{line.exact_time:.2f}", line.told]
        body.append([*cells, _percent(full_accuracy(found, line.time)), _number(full_time(found, line.accuracy))])
    return markdown_table((*head, *more), body)


def cost_line(rows: Mapping[str, Any], network: str) -> str:
    """The cost of a step of each low mode that runs had, in bf16."""
    used = {
        mode for row in rows.values() if row.get("network") == network for steps, _ in row["curve"] for mode in steps
    }
    costs = rows[f"{network} / study"]["costs"]
    told = ", ".join(f"{mode} {costs[mode]['median']:.2f}" for mode in costs if mode in used)
    return f"Cost of a low step (time of a full step = 1): {told}."


#: The arms of the README's table, with their description, by network.
CASE = {
    "resnet8, rate 0.4": {
        "full-mode, 16 epochs": "full-mode",
        "ladder from r = 8/3, 17 epochs, rate over macs": "ladder from r = 8/3 (the tuner's plan), rate over macs",
        "default ladder, 14 epochs, rate over macs": "default ladder, rate over macs",
        "default ladder, 14 epochs": "default ladder, rate over steps",
        "Composer's ramp, 14 epochs, rate over macs": "Composer's progressive resizing, rate over macs",
        "Composer's ramp, 14 epochs": "Composer's progressive resizing",
        "timm's mix of sizes, 12 epochs": "timm's scheduled sizes",
    },
    "resnet8-5x5, rate 0.4": {
        "full-mode, 12 epochs": "full-mode",
        "default ladder, 14 epochs, rate over macs": "default ladder, rate over macs",
        "ladder from r = 8/3, 13 epochs, rate over macs": "ladder from r = 8/3 (the tuner's plan), rate over macs",
        "ladder from r = 8/3, longer, 15 epochs, rate over macs": "the same with more small epochs",
        "Composer's ramp, 12 epochs, rate over macs": "Composer's progressive resizing, rate over macs",
        "Composer's ramp, 11 epochs": "Composer's progressive resizing",
        "timm's mix of sizes, 9 epochs": "timm's scheduled sizes",
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
        full = sorted((line for line in found if line.full), key=lambda line: line.time)
        shortest, longest = full[0], full[-1]
        for arm, told in arms.items():
            line = named[arm]
            above = line.accuracy >= longest.accuracy
            needs = longest.time if above else full_time(found, line.accuracy)
            saved = f"{'at least ' * above}{100 * (1 - line.time / needs):.0f} %"
            saved = "" if line.full else "none" if math.isnan(needs) else saved
            cut = f"{100 * full_accuracy(found, max(line.time, shortest.time)):.1f}"
            # As the table rounds times: 7.95 is 8.0.
            if f"{line.time:.1f}" != f"{shortest.time:.1f}" and line.time < shortest.time:
                cut = f"below {100 * shortest.accuracy:.1f}"
            kernels = "5×5" if "5x5" in network else "3×3"
            body.append((kernels, told, f"{line.time:.1f}", line.told, "" if line.full else cut, saved))
    return markdown_table((*head, "time saved at equal accuracy"), body, left=2)


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def networks(rows: Mapping[str, Any]) -> list[str]:
    """The studies whose steps have been timed."""
    return [key.removesuffix(" / study") for key, row in rows.items() if key.endswith(" / study") and row["costs"]]


def report(rows: Mapping[str, Any], path: Path) -> None:
    """Write ``.md`` and a plot per network next to the result file; print the tables too."""
    parts = []
    for network in networks(rows):
        study = rows[f"{network} / study"]["study"]
        title = f"{study['network']}, {study['images']:,} images of {study.get('data_set', CIFAR)}"
        title += f", {study['epochs']} epochs in full-mode, peak rate {study['lr']:g}"
        parts.append(f"## {title}\n\n{cost_line(rows, network)}\n\n{table(rows, network)}")
        found = lines(rows, network)
        if len(found) < 2:
            continue
        name = re.sub(r"[^\w.-]+", "_", network)
        plot(found, path.with_name(f"{path.stem}_{name}.png"), title)
    text = "\n\n".join(parts) + "\n"
    path.with_suffix(".md").write_text(text)
    print(text)
