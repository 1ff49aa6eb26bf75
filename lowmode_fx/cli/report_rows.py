"""The rows of a report's table, for every format that it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lowmode_fx.counting.report import FlopReport, LayerFlops

#: ``weights``: once a step. ``total``: of the products; ``all``: of norms and the rest, too.
RowKind = Literal["product", "total", "other", "all", "weights"]

#: What the names of such rows begin with.
ON_WEIGHTS = "once a step, on weights: "


@dataclass(frozen=True)
class ReportRow:
    """A layer or a total. Its macs are per image; of ``weights`` per step."""

    layer: LayerFlops
    kind: RowKind


def report_rows(flops: FlopReport) -> Iterator[ReportRow]:
    """Products and their total, which is the headline; norms and the rest and the total with them; work on weights."""
    yield from (ReportRow(layer, "product") for layer in flops.layers if layer.kind == "product")
    yield ReportRow(LayerFlops("total", {}, flops.macs), "total")
    others = [layer for layer in flops.layers if layer.kind == "other"]
    if others:
        yield from (ReportRow(layer, "other") for layer in others)
        yield ReportRow(LayerFlops("with norms and the rest", {}, flops.total_macs), "all")
    for layer in flops.weights:
        name = f"{ON_WEIGHTS}{layer.name.removeprefix('all ')}"
        yield ReportRow(LayerFlops(name, layer.kernels, layer.macs), "weights")
