"""The one renderer of reports: a terminal table, Markdown, JSON, CSV and a page, all from the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, get_args

from lowmode_fx.cli.formats import ReportFormat
from lowmode_fx.cli.report_lines import summary_lines
from lowmode_fx.cli.report_rows import report_rows
from lowmode_fx.counting.large_kernels import large_kernels
from lowmode_fx.counting.report import FlopReport, full_first, mega
from lowmode_fx.counting.step_cost import StepCost
from lowmode_fx.lowering.ladder import Ladder, ModePair
from lowmode_fx.lowering.report import PairReport
from lowmode_fx.utils.tables import csv_table, markdown_table, rendered, text_table
from lowmode_fx.utils.validation import as_choice

__all__ = ["render_report", "report_dict", "summary_lines"]

_TITLES = (" kernel", " Mmacs", " / full")


def render_report(
    name: str, ladder: Ladder, flops: FlopReport, style: ReportFormat = "table", step: StepCost | None = None
) -> str:
    """The report of a ladder as text: totals, one row a layer, what was changed and what was skipped and why.

    Args:
        name: of the model.
        ladder: its modes.
        flops: their counts, by ``count_flops``.
        style: the format.
        step: the cost of a step, where that is asked for; a CSV has none.

    Returns:
        The text, without a line break at its end.

    Raises:
        ValueError: for an unknown ``style``.
    """
    if style == "json":
        return json.dumps(report_dict(name, ladder, flops, step), indent=2, default=str)
    if style == "csv":
        return _csv(flops)
    if style == "html":
        from lowmode_fx.cli.report_page import report_page

        return report_page(name, ladder, flops, step)
    as_choice("format", style, get_args(ReportFormat))
    lines = summary_lines(name, ladder, flops, step)
    if style == "markdown":
        return _markdown(lines, flops)
    return _table(lines, flops)


def report_dict(name: str, ladder: Ladder, flops: FlopReport, step: StepCost | None = None) -> dict[str, Any]:
    """Everything that is known of the ladder, as plain values; macs are per image, those of weights per step.

    ``rungs``: what was done for each low mode, by its name; of a pair the same under ``pair``, too.
    """
    rungs = {str(rung.mode): _plain(rung.report) for rung in ladder.rungs}
    pair = {"pair": _plain(ladder.report)} if isinstance(ladder, ModePair) else {}
    large = large_kernels(ladder, flops)
    found = {} if large is None else {"large_kernels": asdict(large)}
    asked = {} if step is None else {"step": asdict(step)}
    return {"name": name, **pair, "rungs": rungs, "flops": flops.to_dict(), **found, **asked}


def _plain(report: PairReport) -> dict[str, Any]:
    plain = {"input_dtype": str(report.input_dtype), "leaf_modules": [each.__name__ for each in report.leaf_modules]}
    return {**asdict(report), **plain}


def _columns(flops: FlopReport, kernel: str, macs: str, ratio: str) -> tuple[str, ...]:
    """Titles: of every mode its kernel, then its macs, then of each low mode its share of full-mode's."""
    modes = full_first(flops.macs)
    sizes, counts = ([f"{mode}{what}" for mode in modes] for what in (kernel, macs))
    return ("layer", *sizes, *counts, *(f"{mode}{ratio}" for mode in flops.modes[:-1]))


def _rows(flops: FlopReport, macs: Callable[[int], str], ratio: Callable[[float], str]) -> list[tuple[str, ...]]:
    """The rows under ``_columns``, and the kind of each; ``macs`` and ``ratio`` say how numbers are written."""
    modes = full_first(flops.macs)
    return [
        (
            row.layer.name,
            *(row.layer.kernels.get(mode, "") for mode in modes),
            *(macs(row.layer.macs[mode]) for mode in modes),
            *map(ratio, row.layer.ratios.values()),
            row.kind,
        )
        for row in report_rows(flops)
    ]


def _table(lines: list[str], flops: FlopReport) -> str:
    table = text_table(_columns(flops, *_TITLES))
    for *cells, _ in _rows(flops, mega, written_ratio):
        table.add_row(*cells)
    return rendered(*lines, "", table)


def _markdown(lines: list[str], flops: FlopReport) -> str:
    rows = [cells[:-1] for cells in _rows(flops, mega, written_ratio)]
    return "\n".join([*(f"- {line}" for line in lines), "", markdown_table(_columns(flops, *_TITLES), rows)])


def _csv(flops: FlopReport) -> str:
    columns = _columns(flops, "_kernel", "_macs", "_ratio")
    head = [*columns[:-1], "ratio"] if len(flops.modes) == 2 else columns
    return csv_table([*head, "kind"], _rows(flops, str, "{:.6g}".format))


def written_ratio(ratio: float) -> str:
    """Four places; nothing where there is none."""
    return "" if ratio != ratio else f"{ratio:.4f}"
