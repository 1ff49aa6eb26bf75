"""Tables as text: for a terminal by rich, in Markdown, and as CSV. Cells are text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.table import Table

#: Wider than any row, so that nothing is cut.
_WIDTH = 1000


def text_table(head: Sequence[str], *, left: int = 1) -> Table:
    """A table without lines; its first ``left`` columns, and those without a title, are left-aligned."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, title in enumerate(head):
        table.add_column(title, justify="left" if place < left or not title else "right", no_wrap=True)
    return table


def rendered(*parts: RenderableType) -> str:
    """Tables and lines as plain text, one below the other."""
    stream = io.StringIO()
    # Names are literal: brackets and colons are not markup.
    console = Console(file=stream, width=_WIDTH, markup=False, emoji=False, highlight=False)
    for part in parts:
        console.print(part, soft_wrap=True)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table, its first ``left`` columns left-aligned, the others right-aligned."""
    rule = [":--" if place < left else "--:" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in (head, rule, *rows))


def csv_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV, without a final line break."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return stream.getvalue().rstrip("\n")


def with_error(value: float, error: float, digits: int = 2) -> str:
    """``0.35 ± 0.02``; the value alone if its standard error is NaN."""
    return f"{value:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def _escaped(cell: str) -> str:
    return cell.replace("|", "¦")
