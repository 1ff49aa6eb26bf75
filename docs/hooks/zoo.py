"""The zoo's table, made of its records: ``<!-- zoo: PATH -->`` becomes a table that the page can filter."""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MARK = re.compile(r"^<!-- zoo: (\S+) -->$", re.MULTILINE)
HEAD = ("model", "family", "low / full macs", "full, Mmacs", "pooled convs", "low-mode's images", "build, s")
NUMBERS = {"low / full macs", "full, Mmacs", "pooled convs", "build, s"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls it for each page."""
    return _MARK.sub(lambda match: table(ROOT / match[1]), markdown)


def table(path: Path) -> str:
    """HTML: one row per model of the sweep's CSV file."""
    with path.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["name"])
    head = "".join(_cell("th", title, title) for title in HEAD)
    body = "\n".join(f"<tr>{''.join(map(_cell, ['td'] * len(HEAD), HEAD, _cells(row)))}</tr>" for row in rows)
    return (
        f'<div class="filtered" markdown="0">\n<table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _cell(tag: str, title: str, text: str) -> str:
    style = ' style="text-align: right"' if title in NUMBERS else ""
    return f"<{tag}{style}>{html.escape(text)}</{tag}>"


def _cells(row: Mapping[str, str]) -> tuple[str, ...]:
    if row["status"] != "right":
        return row["name"], row["family"], "", "", "", f"{row['status']}: {row['reason']}", ""
    images = "smaller" if row["downsample_input"] == "True" else "full size"
    if int(row["resized_maps"] or 0):
        images += ", a map resized"
    full = f"{int(row['full_macs']) / 1e6:,.0f}"
    ratio, seconds = f"{float(row['ratio']):.3f}", f"{float(row['build_seconds']):.1f}"
    return row["name"], row["family"], ratio, full, row["pooled_convs"], images, seconds
