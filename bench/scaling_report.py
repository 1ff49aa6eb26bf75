"""How cost grows, as tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lowmode_fx.utils.plotting import MARKERS, SERIES, draw_picture
from lowmode_fx.utils.tables import markdown_table


def of_part(rows: Mapping[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """The rows of ``build``, ``step`` or ``ddp``, without its name in their keys."""
    return {key.removeprefix(f"{part} / "): row for key, row in rows.items() if key.startswith(f"{part} / ")}


def build_table(rows: Mapping[str, Any]) -> str:
    head = ("network", "parameters, M", "nodes", "build, s", "front end, s", "memory, MB")
    lines = [
        (
            name,
            f"{row['parameters'] / 1e6:.1f}",
            str(row["nodes"]),
            f"{row['build seconds']['median']:.2f}",
            f"{row['front end seconds']['median']:.2f}",
            f"{row['build MB']['median']:.1f}",
        )
        for name, row in of_part(rows, "build").items()
    ]
    return markdown_table(head, lines)


def step_table(rows: Mapping[str, Any]) -> str:
    lines = []
    for row in of_part(rows, "step").values():
        ratio = row["low / full"]
        quartiles = f"{ratio['q1']:.3f} to {ratio['q3']:.3f}"
        ratios = (f"{ratio['median']:.3f}", quartiles, f"{row['mac_ratio']:.3f}")
        lines.append((str(row["side"]), str(row["batch"]), *ratios))
    return markdown_table(("side", "batch", "low / full", "quartiles", "macs"), lines, left=0)


def ddp_table(rows: Mapping[str, Any]) -> str:
    lines = []
    for row in of_part(rows, "ddp").values():
        low, high = (100 * (row["net / graph"][quartile] - 1) for quartile in ("q1", "q3"))
        lost = f"{100 * row['lost to the runner']:.1f}"
        lines.append((str(row["ranks"]), str(row["threads a rank"]), lost, f"{low:.1f} to {high:.1f}"))
    return markdown_table(("processes", "threads each", "lost to the runner, %", "quartiles, %"), lines, left=0)


def report(rows: Mapping[str, Any], path: Path) -> None:
    """``.md`` and ``.png`` beside the result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(
        f"# How cost grows\n\n## Building a pair\n\n{build_table(rows)}\n\n"
        f"## A low step of ResNet-18 over a full one\n\n{step_table(rows)}\n\n"
        f"## The runner under DDP\n\n{ddp_table(rows)}\n"
    )
    draw_picture(path.with_suffix(".png"), 6.2, lambda figure: _draw(figure, rows))


def _draw(figure: Figure, rows: Mapping[str, Any]) -> None:
    above, below = figure.subplots(2, 2)
    builds, steps = list(of_part(rows, "build").values()), list(of_part(rows, "step").values())
    for axes, (size, label) in zip(above, (("parameters", "parameters"), ("nodes", "nodes of the graph")), strict=True):
        chosen = sorted(builds, key=itemgetter(size))
        for name, what in (("build seconds", "build_pair"), ("front end seconds", "the front end alone")):
            _line(axes, [row[size] for row in chosen], [row[name]["median"] for row in chosen], what)
        axes.set(xlabel=label, ylabel="seconds", title="building a pair")
    above[0].set_xscale("log")
    for axes, (varied, fixed, label) in zip(
        below, (("side", "batch", "side of the images"), ("batch", "side", "batch")), strict=True
    ):
        kept = _most_common([row[fixed] for row in steps])
        chosen = sorted((row for row in steps if row[fixed] == kept), key=itemgetter(varied))
        _line(axes, [row[varied] for row in chosen], [row["low / full"]["median"] for row in chosen], "time")
        _line(axes, [row[varied] for row in chosen], [row["mac_ratio"] for row in chosen], "macs")
        axes.set(xlabel=f"{label} ({fixed} {kept})", ylabel="low step / full step", xscale="log")
        axes.set_title("a low step of ResNet-18")
        axes.set_xticks([row[varied] for row in chosen], [str(row[varied]) for row in chosen], minor=False)
        axes.minorticks_off()
    for axes in (*above, *below):
        axes.set_ylim(0, None)
        axes.legend()


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], label: str) -> None:
    axes.plot(x, y, f"{MARKERS[len(axes.lines)]}-", color=SERIES[len(axes.lines)], label=label)


def _most_common(values: Sequence[int]) -> int | None:
    return max(values, key=values.count, default=None)
