"""The one renderer of reports: a terminal table, Markdown, JSON and CSV, all from the same rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, get_args

from lowmode_fx.cli.formats import ReportFormat
from lowmode_fx.counting.forward import FlopReport, LayerFlops
from lowmode_fx.counting.large_kernels import large_kernels
from lowmode_fx.lowering.ladder import Ladder, ModePair
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.report import PairReport
from lowmode_fx.utils.tables import csv_table, markdown_table, rendered, text_table
from lowmode_fx.utils.validation import as_choice
from passes.wording import sides

_FULL = str(Mode.FULL)
_TITLES = (" kernel", " Mmacs", " / full")


def render_report(name: str, ladder: Ladder, flops: FlopReport, style: ReportFormat = "table") -> str:
    """The report of a ladder as text: totals, one row a layer, what was changed and what was skipped and why.

    Raises ``ValueError`` for an unknown ``style``.
    """
    if style == "json":
        return json.dumps(report_dict(name, ladder, flops), indent=2, default=str)
    if style == "csv":
        return _csv(flops)
    if style == "markdown":
        return _markdown(name, ladder, flops)
    as_choice("format", style, get_args(ReportFormat))
    return _table(name, ladder, flops)


def report_dict(name: str, ladder: Ladder, flops: FlopReport) -> dict[str, Any]:
    """Everything that is known of the ladder, as plain values; macs are per image.

    ``rungs``: what was done for each low mode, by its name; of a pair the same under ``pair``, too.
    """
    rungs = {str(rung.mode): _plain(rung.report) for rung in ladder.rungs}
    pair = {"pair": _plain(ladder.report)} if isinstance(ladder, ModePair) else {}
    large = large_kernels(ladder, flops)
    found = {} if large is None else {"large_kernels": asdict(large)}
    return {"name": name, **pair, "rungs": rungs, "flops": flops.to_dict(), **found}


def _plain(report: PairReport) -> dict[str, Any]:
    plain = {"input_dtype": str(report.input_dtype), "leaf_modules": [each.__name__ for each in report.leaf_modules]}
    return {**asdict(report), **plain}


def summary_lines(name: str, ladder: Ladder, flops: FlopReport) -> list[str]:
    """What a reader wants first: sizes, totals, what was done for each low mode, and notes."""
    first = ladder.rungs[0].report
    shapes = {_FULL: first.input_shape} | {str(rung.mode): rung.report.low_input_shape for rung in ladder.rungs}
    totals = [f"{_mega(flops.macs[mode])} Mmacs {mode} at {sides(shape[1:])}" for mode, shape in shapes.items()]
    ratios = [f"{mode} / full = {ratio:.4f}" for mode, ratio in flops.ratios.items()]
    lines = [
        f"{name}: {', '.join(totals + ratios)} (per image, forward)",
        f"traced by {first.front_end}"
        + (f" (not by {'; '.join(first.front_end_failures)})" * bool(first.front_end_failures)),
    ]
    notes = []
    large = large_kernels(ladder, flops)
    if large is not None:
        sizes = ", ".join(f"{count} × {kernel}" for kernel, count in large.counts.items())
        resized = ", ".join(f"{mode} / full = {ratio:.4f}" for mode, ratio in large.ratios.items())
        lines.append(
            f"large kernels: {sizes}, {large.share:.1%} of full-mode's macs; resized with the images {resized}"
        )
    for rung in ladder.rungs:
        of = f"{rung.mode}: " if len(ladder.rungs) > 1 else ""
        lines += [f"{of}{line}" for line in _pass_lines(rung.report)]
        notes += [f"note: {of}{note}" for note in rung.report.notes]
    return lines + notes


def _pass_lines(report: PairReport) -> Iterator[str]:
    for entry in report.passes:
        for (before, after), count in Counter((change.before, change.after) for change in entry.changes).items():
            yield f"{entry.name}: {count} × {before} → {after}"
        for reason, count in Counter(skip.reason for skip in entry.skips).items():
            yield f"{entry.name}: {count} left alone ({reason})"


def _columns(flops: FlopReport, kernel: str, macs: str, ratio: str) -> tuple[str, ...]:
    """Titles: of every mode its kernel, then its macs, then of each low mode its share of full-mode's."""
    full_first = (_FULL, *flops.modes[:-1])
    sizes, counts = ([f"{mode}{what}" for mode in full_first] for what in (kernel, macs))
    return ("layer", *sizes, *counts, *(f"{mode}{ratio}" for mode in flops.modes[:-1]))


def _rows(flops: FlopReport, macs: Callable[[int], str], ratio: Callable[[float], str]) -> list[tuple[str, ...]]:
    """A row a layer, and the total's, under ``_columns``; ``macs`` and ``ratio`` say how numbers are written."""
    full_first = (_FULL, *flops.modes[:-1])
    total = LayerFlops("total", {}, flops.macs)
    return [
        (
            layer.name,
            *(layer.kernels.get(mode, "") for mode in full_first),
            *(macs(layer.macs[mode]) for mode in full_first),
            *map(ratio, layer.ratios.values()),
        )
        for layer in (*flops.layers, total)
    ]


def _table(name: str, ladder: Ladder, flops: FlopReport) -> str:
    table = text_table(_columns(flops, *_TITLES))
    for row in _rows(flops, _mega, _ratio):
        table.add_row(*row)
    return rendered(*summary_lines(name, ladder, flops), "", table)


def _markdown(name: str, ladder: Ladder, flops: FlopReport) -> str:
    table = markdown_table(_columns(flops, *_TITLES), _rows(flops, _mega, _ratio))
    return "\n".join([*(f"- {line}" for line in summary_lines(name, ladder, flops)), "", table])


def _csv(flops: FlopReport) -> str:
    columns = _columns(flops, "_kernel", "_macs", "_ratio")
    head = [*columns[:-1], "ratio"] if len(flops.modes) == 2 else columns
    return csv_table(head, _rows(flops, str, "{:.6g}".format))


def _mega(macs: int) -> str:
    return f"{macs / 1e6:,.2f}"


def _ratio(ratio: float) -> str:
    return "" if ratio != ratio else f"{ratio:.4f}"
