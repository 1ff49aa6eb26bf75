"""The summary of a sweep: a few lines, a table and a picture."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from bench.zoo.names import Source, source
from bench.zoo.record import Record
from lowmode_fx.utils.tables import csv_table, markdown_table

_COLUMNS = (
    *("name", "family", "status", "front_end", "parameters", "pooled_convs", "full_macs", "low_macs", "ratio"),
    *("downsample_input", "resized_maps", "trace_seconds", "build_seconds", "peak_mb", "reason"),
)


@dataclass(frozen=True)
class Summary:
    """The summary of a sweep in numbers. Ratios are low / full macs; except for counts, only right pairs are included.

    ``fitting``: pairs for smaller images of the model's size; ``rounded``: for images of a size that can be halved more
    often; ``resized``: with fixed maps resized; ``whole``: for full-size images, only kernels pooled.
    ``build_over_trace``: seconds of ``build_pair`` over the front end's.
    ``memory_over_parameters``: peak memory of building divided by the size of the parameters, for models above
    100 MB, since the graphs themselves take some MB. ``proofs``: by front end, how many models
    were tried and proven, and the CPU seconds of ``build_pair`` with proofs.
    """

    models: int
    nothing: int
    counts: Mapping[str, int]
    fitting: int
    rounded: int
    resized: int
    whole: int
    without_gradients: int
    front_ends: Mapping[str, int]
    ratio_quartiles: tuple[float, ...]
    build_over_trace: float
    memory_over_parameters: float
    proofs: Mapping[str, Mapping[str, float]]

    @property
    def share(self) -> float:
        """Right pairs among the models with something to pool."""
        return self.counts.get("right", 0) / max(1, self.models)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "share": self.share}


def summarize(records: Sequence[Record]) -> Summary:
    """Count and condense the records of a sweep."""
    models = [record for record in records if record.poolable]
    right = [record for record in models if record.status == "right"]
    kinds = Counter(record.kind for record in right)
    ratios = [record.ratio for record in right if record.kind != "whole"]
    large = [record for record in right if record.parameters * 4 > 100e6]
    return Summary(
        models=len(models),
        nothing=len(records) - len(models),
        counts=dict(Counter(record.status for record in models)),
        fitting=kinds["fits"],
        rounded=kinds["rounded"],
        resized=kinds["resized"],
        whole=kinds["whole"],
        without_gradients=sum(not record.gradients_checked for record in right),
        front_ends=dict(Counter(record.front_end for record in right).most_common()),
        ratio_quartiles=tuple(statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3),
        build_over_trace=statistics.median(
            [each.build_seconds / max(each.trace_seconds, 1e-3) for each in right] or [0]
        ),
        memory_over_parameters=max((each.peak_mb * 2**20 / (each.parameters * 4) for each in large), default=0.0),
        proofs=_proofs(right),
    )


def _proofs(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for front_end in dict.fromkeys(each for record in records for each in record.graphs):
        tried = [record for record in records if front_end in record.graphs]
        seconds = [record.proven_seconds[front_end] for record in tried]
        found[front_end] = {
            "tried": len(tried),
            "proven": sum(not record.graphs[front_end] for record in tried),
            "median_seconds": statistics.median(seconds),
            "worst_seconds": max(seconds),
        }
    return found


def summary_lines(records: Sequence[Record]) -> list[str]:
    """The summary in words, one fact per line."""
    found = summarize(records)
    right, counts = found.counts.get("right", 0), found.counts
    lines = [
        f"{right} of {found.models} models with a poolable convolution give a right pair ({found.share:.1%}); "
        f"{counts.get('wrong', 0)} wrong, {counts.get('refused', 0)} refused, {counts.get('error', 0)} errors, "
        f"{counts.get('timeout', 0)} timeouts; {found.nothing} have nothing to pool",
        f"of these {found.fitting} train on smaller images, {found.rounded} on smaller images of a size that can be "
        f"halved more often, {found.resized} on smaller images with a map of fixed size resized, "
        f"{found.whole} on full-size images with only kernels pooled",
    ]
    if right:
        lines.append("front ends: " + ", ".join(f"{name} {count}" for name, count in found.front_ends.items()))
        quartiles = ", ".join(f"{value:.3f}" for value in found.ratio_quartiles)
        lines.append(f"low / full macs on smaller images: quartiles {quartiles}")
        lines.append(
            f"build_pair takes {found.build_over_trace:.1f} × the time of tracing alone (median), and at most "
            f"{found.memory_over_parameters:.2f} × the memory of the parameters (models above 100 MB)"
        )
    for front_end, proofs in found.proofs.items():
        lines.append(
            f"{front_end}'s graphs are proven for {proofs['proven']} of {proofs['tried']} right models, and their "
            f"steps are those of the model itself, bit for bit; build_pair with the proofs takes "
            f"{proofs['median_seconds']:.1f} s of CPU time (median; worst {proofs['worst_seconds']:.1f})"
        )
    if found.without_gradients:
        lines.append(f"{found.without_gradients} were too large for a backward pass and were checked forward alone")
    return lines


def to_markdown(records: Sequence[Record]) -> str:
    """The summary, a row per family, and each model without a right pair, or with full-size images, with its reason."""
    models = [record for record in records if record.poolable]
    parts = ["\n".join(f"- {line}" for line in summary_lines(records))]
    lines = []
    for family in sorted({record.family for record in models}):
        members = [record for record in models if record.family == family]
        right = [record for record in members if record.status == "right"]
        ratio = f"{statistics.median(record.ratio for record in right):.3f}" if right else ""
        pooled = f"{statistics.median(record.pooled_convs for record in right):.0f}" if right else ""
        lines.append((family, str(len(members)), str(len(right)), ratio, pooled))
    parts.append(
        markdown_table(("family", "models", "right", "median low / full macs", "median kernels pooled"), lines)
    )
    failed = [record for record in models if record.status != "right"]
    if failed:
        reasons = [(record.name, record.status, record.reason) for record in failed]
        parts.append(markdown_table(("no right pair", "status", "reason"), reasons, left=3))
    whole = [record for record in models if record.status == "right" and record.kind == "whole"]
    if whole:
        ratios = [(each.name, f"{each.ratio:.3f}", each.reason) for each in whole]
        parts.append(markdown_table(("whole images only", "low / full macs", "reason"), ratios, left=3))
    for front_end in dict.fromkeys(each for record in models for each in record.graphs):
        unproven = [(each.name, each.graphs[front_end]) for each in models if each.graphs.get(front_end)]
        if unproven:
            parts.append(markdown_table((f"no proof of {front_end}'s graphs", "why"), unproven, left=2))
    return "\n\n".join(parts) + "\n"


def to_csv(records: Sequence[Record]) -> str:
    """One row per model."""
    rows = ({name: getattr(record, name) for name in _COLUMNS} for record in records)
    return csv_table(_COLUMNS, [list({**row, "ratio": round(row["ratio"], 4)}.values()) for row in rows]) + "\n"


def by_zoo(records: list[Record]) -> dict[str, list[Record]]:
    """The records of each zoo, and of all."""
    zoos = {zoo: [each for each in records if source(each.name) == zoo] for zoo in get_args(Source)}
    return {**{zoo: members for zoo, members in zoos.items() if members}, "all": records}


def zoo_lines(records: list[Record]) -> str:
    """The number of right models of each zoo; the rest of the summary is over all."""
    lines = []
    for zoo, members in by_zoo(records).items():
        first, *more = summary_lines(members)
        lines += [f"{zoo}: {line}" for line in ([first] if zoo != "all" else more)]
    return "\n".join(lines)
