"""Whole steps as a table: a call of ``TrainStep`` compared with a loop's step and the peers', in the same rounds."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from typing import Any

from bench.step_functions import KEPT, LARGER, LOW, PLAIN_FULL, PLAIN_HALF, WHOLE
from lowmode_fx.utils.tables import markdown_table

#: Targets on an H100 or H200: milliseconds of a full step; low steps divided by it, by their names in rows.
TARGETS: dict[str, dict[str, float]] = {
    "resnet18-cifar": {"full": 2.4, LOW: 0.40, KEPT: 0.50},
    "resnet18-cifar-b512": {"full": 6.2, LOW: 0.22, KEPT: 0.30},
    "resnet50-cifar-b512": {LOW: 0.22},
    "resnet50-imagenet-b128": {KEPT: 0.29},
}
#: Target for the runner: microseconds of the host per step, without the launch of the graph.
RUNNER_MICROSECONDS = 30


def whole_step_table(rows: Mapping[str, Any], device: str) -> str:
    """Markdown: one row per network with whole steps; empty if there are none. Absolute times only from a GPU.

    Columns without a value are left out.
    """
    head = ["network", "batch", "full, ms", "pooled / full", "kept / full", "4/3 / full", "full over the loop's"]
    head += ["pooled over the loop's", "plain compiled full / full", "plain compiled half / full"]
    head += [f"runner, µs (≤ {RUNNER_MICROSECONDS})", "pool of all modes / of full", "graphs", "not captured"]
    lines = [_line(name, row, device == "cuda") for name, row in rows.items() if WHOLE in row]
    if not lines:
        return ""
    filled = [any(column) for column in zip(*lines, strict=True)]
    return markdown_table(list(compress(head, filled)), [list(compress(line, filled)) for line in lines], left=1)


def _line(name: str, row: Mapping[str, Any], gpu: bool) -> list[str]:
    found = row[WHOLE]
    aims, loop, pool = TARGETS.get(name, {}) if gpu else {}, found.get("whole / loop", {}), found.get("pool, bytes")
    full = f"{1000 * found['full seconds']['median']:.2f}" + _aim(aims, "full") if gpu else ""
    low = [_ratio(found.get(f"{mode} / full")) + _aim(aims, mode) for mode in (LOW, KEPT, LARGER)]
    over = [_ratio(loop.get(mode)) for mode in ("full", LOW)]
    peers = [_ratio(found.get(f"{peer} / full")) for peer in (PLAIN_FULL, PLAIN_HALF)]
    runner = found.get("runner seconds")
    micros = f"{1e6 * runner['median']:.0f}" if runner else ""
    shared = f"{pool['all'] / pool['full']:.2f}" if pool and pool["full"] else ""
    why = found.get("uncaptured") or found.get("optimizer outside")
    refused = f"{why}" if gpu and why else ""
    graphs = str(found["captures"]) if gpu else ""
    return [name, str(row["batch"]), full, *low, *over, *peers, micros, shared, graphs, refused]


def _ratio(found: Mapping[str, float] | None) -> str:
    return f"{found['median']:.3f}" if found else ""


def _aim(aims: Mapping[str, float], name: str) -> str:
    return f" (≤ {aims[name]:.2f})" if name in aims else ""
