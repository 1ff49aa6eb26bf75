"""A report as a page of its own: one HTML file that needs nothing else, in light and dark, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, Template, select_autoescape

from lowmode_fx.cli.drawing import pair_svg
from lowmode_fx.cli.drawing.part import choose_part
from lowmode_fx.cli.ladder_options import rung_pair
from lowmode_fx.cli.report_lines import change_lines, image_shapes, large_kernel_lines, note_lines, traced_lines
from lowmode_fx.cli.report_rows import ON_WEIGHTS, ReportRow, report_rows
from lowmode_fx.counting.report import FlopReport, full_first, mega, shares
from lowmode_fx.counting.step_cost import StepCost
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.utils.plotting import BLUE, GREEN, INK, PALE_BLUE, SKY, VERMILLION


def report_page(name: str, ladder: Ladder, flops: FlopReport, step: StepCost | None = None) -> str:
    """The report of a ladder as HTML: totals, the picture of a part, a table of layers to sort, what was done and why.

    Args:
        name: of the model.
        ladder: its modes; the picture shows the cheapest beside full-mode.
        flops: their counts, by ``count_flops``.
        step: the cost of a step, where that is asked for.

    Returns:
        The page, with its styles, its script and its picture inside.
    """
    modes = full_first(flops.macs)
    rows = list(report_rows(flops))
    pair = rung_pair(ladder, None)
    label, shown = choose_part(pair)
    most = max(
        (count for row in rows if row.kind in ("product", "other") for count in row.layer.macs.values()), default=0
    )
    return _template().render(
        name=name,
        modes=modes,
        low=modes[1:],
        totals=[_total(mode, flops, shape) for mode, shape in image_shapes(ladder).items()],
        step=None if step is None else _step(step, modes),
        layers=[_row(row, most) for row in rows if row.kind in ("product", "other")],
        sums=[_row(row, 0) for row in rows if row.kind in ("total", "all")],
        weights=[_row(row, 0) for row in rows if row.kind == "weights"],
        picture=pair_svg(pair, shown, f"{name}{label and f': {label}'}"),
        part=label,
        pictured=str(pair.modes[0]),
        traced=list(traced_lines(ladder)),
        changes=[*large_kernel_lines(ladder, flops), *change_lines(ladder)],
        notes=[line.removeprefix("note: ") for line in note_lines(ladder)],
        free=_by_reason(flops.free),
        colours={"ink": INK, "blue": BLUE, "sky": SKY, "vermillion": VERMILLION, "green": GREEN, "pale": PALE_BLUE},
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"mega": mega, "large": large, "percent": percent}
    return environment.from_string((resources.files("lowmode_fx.cli") / "report_page.html").read_text("utf-8"))


def large(count: float) -> str:
    """Three or four digits and a unit: ``4.09 G``, ``643 M``."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            digits = count / size
            return f"{digits:.0f} {unit}" if digits >= 100 else f"{digits:.2f} {unit}"
    return f"{count:.0f}"


def percent(share: float) -> str:
    """``15.7 %``; a dash where there is none."""
    return "–" if share != share else f"{share:.1%}".replace("%", " %")


def _total(mode: str, flops: FlopReport, shape: str) -> dict[str, Any]:
    """One mode's headline and what stands beside it."""
    whole = max(flops.total_macs.values()) or 1
    return {
        "mode": mode,
        "shape": shape,
        "macs": flops.macs[mode],
        "other": flops.other_macs[mode],
        "all": flops.total_macs[mode],
        "weights": flops.weight_macs[mode],
        "ratio": flops.ratios.get(mode),
        "bar": 100 * flops.macs[mode] / whole,
        "other_bar": 100 * flops.other_macs[mode] / whole,
    }


def _step(step: StepCost, modes: list[str]) -> dict[str, Any]:
    rows = [("forward, all that fvcore counts, work on weights once (macs)", step.forward_macs)]
    if step.flops:
        rows.append(("forward and backward, products by torch's FlopCounterMode (flops)", step.flops))
    told = [(what, [counts[mode] for mode in modes], list(shares(counts).values())) for what, counts in rows]
    return {"batch_size": step.batch_size, "rows": told, "reason": step.reason}


def _row(row: ReportRow, most: int) -> dict[str, Any]:
    """A layer in the order of the table's columns; bars are shares of the longest."""
    layer, modes = row.layer, full_first(row.layer.macs)
    kernels = [layer.kernels[mode] for mode in modes] if layer.kernels else []
    return {
        "name": layer.name.removeprefix(ON_WEIGHTS),
        "kind": row.kind,
        "kernel": " → ".join(kernels if len(set(kernels)) > 1 else kernels[:1]),
        "macs": [layer.macs[mode] for mode in modes],
        "ratios": list(layer.ratios.values()),
        "bars": [100 * layer.macs[mode] / most for mode in modes] if most else [],
    }


def _by_reason(free: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for operator, reason in free.items():
        found.setdefault(reason, []).append(operator.removeprefix("aten::"))
    return found
