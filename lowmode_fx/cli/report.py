"""The one renderer of reports: a terminal table, Markdown, JSON and CSV, all from the same rows."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lowmode_fx.counting.forward import FlopReport
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.report import PairReport

ReportFormat = Literal["table", "markdown", "json", "csv"]
_HEADER = ("layer", "full kernel", "low kernel", "full Mmacs", "low Mmacs", "low / full")
_COLUMNS = ("layer", "full_kernel", "low_kernel", "full_macs", "low_macs", "ratio")


def render_report(name: str, pair: ModePair, flops: FlopReport, style: ReportFormat = "table") -> str:
    """The report of a pair as text: totals, one row a layer, what was changed and what was skipped and why.

    Raises ``ValueError`` for an unknown ``style``.
    """
    if style == "json":
        return json.dumps(report_dict(name, pair, flops), indent=2, default=str)
    if style == "csv":
        return _csv(flops)
    if style == "markdown":
        return _markdown(name, pair, flops)
    if style != "table":
        raise ValueError(f"format is {style!r}; allowed: 'table', 'markdown', 'json', 'csv'")
    return _table(name, pair, flops)


def report_dict(name: str, pair: ModePair, flops: FlopReport) -> dict[str, Any]:
    """Everything that is known of the pair, as plain values; macs are per image."""
    report = pair.report
    plain = {"input_dtype": str(report.input_dtype), "leaf_modules": [each.__name__ for each in report.leaf_modules]}
    return {"name": name, "pair": {**asdict(report), **plain}, "flops": flops.to_dict()}


def summary_lines(name: str, report: PairReport, flops: FlopReport) -> list[str]:
    """What a reader wants first: sizes, totals, what was done to the low graph, and notes."""
    full, low = ("×".join(map(str, shape[1:])) for shape in (report.input_shape, report.low_input_shape))
    lines = [
        f"{name}: {_mega(flops.full_macs)} Mmacs full at {full}, {_mega(flops.low_macs)} Mmacs low at {low}, "
        f"low / full = {flops.ratio:.4f} (per image, forward)",
        f"traced by {report.front_end}"
        + (f" (not by {'; '.join(report.front_end_failures)})" * bool(report.front_end_failures)),
    ]
    for entry in report.passes:
        for (before, after), count in Counter((change.before, change.after) for change in entry.changes).items():
            lines.append(f"{entry.name}: {count} × {before} → {after}")
        for reason, count in Counter(skip.reason for skip in entry.skips).items():
            lines.append(f"{entry.name}: {count} left alone ({reason})")
    return lines + [f"note: {note}" for note in report.notes]


def _rows(flops: FlopReport) -> list[tuple[str, ...]]:
    rows = [
        (layer.name, layer.full, layer.low, _mega(layer.full_macs), _mega(layer.low_macs), _ratio(layer.ratio))
        for layer in flops.layers
    ]
    return [*rows, ("total", "", "", _mega(flops.full_macs), _mega(flops.low_macs), _ratio(flops.ratio))]


def _table(name: str, pair: ModePair, flops: FlopReport) -> str:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, title in enumerate(_HEADER):
        table.add_column(title, justify="left" if index < 1 else "right", no_wrap=True)
    *layers, total = _rows(flops)
    for row in layers:
        pooled = bool(row[1]) and row[1] != row[2]
        table.add_row(*row, style="green" if pooled else "")
    table.add_row(*total, style="bold")
    lines = [Text(line) for line in summary_lines(name, pair.report, flops)]
    console = Console(file=io.StringIO(), width=1000)  # wider than any row: nothing is cut
    console.print(Group(*lines, Text(), table), soft_wrap=True)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue().rstrip()


def _markdown(name: str, pair: ModePair, flops: FlopReport) -> str:
    rule = [":--", *["--:"] * (len(_HEADER) - 1)]
    rows = [_HEADER, rule, *_rows(flops)]
    table = "\n".join("| " + " | ".join(cell for cell in row) + " |" for row in rows)
    return "\n".join([*(f"- {line}" for line in summary_lines(name, pair.report, flops)), "", table])


def _csv(flops: FlopReport) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for layer in flops.layers:
        writer.writerow((layer.name, layer.full, layer.low, layer.full_macs, layer.low_macs, f"{layer.ratio:.6g}"))
    writer.writerow(("total", "", "", flops.full_macs, flops.low_macs, f"{flops.ratio:.6g}"))
    return stream.getvalue().rstrip()


def _mega(macs: int) -> str:
    return f"{macs / 1e6:,.2f}"


def _ratio(ratio: float) -> str:
    return "" if ratio != ratio else f"{ratio:.4f}"
