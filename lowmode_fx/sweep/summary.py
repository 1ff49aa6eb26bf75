"""A sweep in a few lines, a table, and a picture."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .record import Record

_COLUMNS = ("name", "family", "status", "front_end", "pooled_convs", "full_macs", "low_macs", "ratio", "reason")
#: Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def poolable(records: Sequence[Record]) -> list[Record]:
    """All but the models that have no convolution which low-mode could pool."""
    return [record for record in records if record.status != "nothing"]


def summary_lines(records: Sequence[Record]) -> list[str]:
    """What the sweep shows, a fact a line."""
    models = poolable(records)
    right = [record for record in models if record.status == "right"]
    counts = Counter(record.status for record in models)
    whole = sum(not record.downsample_input for record in right)
    lines = [
        f"{len(right)} of {len(models)} models with a poolable convolution give a right pair "
        f"({len(right) / max(1, len(models)):.1%}); {counts['wrong']} wrong, {counts['refused']} refused, "
        f"{counts['error']} errors, {counts['timeout']} timeouts; {len(records) - len(models)} have nothing to pool",
        f"of these {len(right) - whole} train on smaller images, {whole} take one size only and pool kernels alone",
    ]
    if right:
        fronts = Counter(record.front_end for record in right)
        lines.append("front ends: " + ", ".join(f"{name} {count}" for name, count in fronts.most_common()))
        ratios = [record.ratio for record in right if record.downsample_input]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        lines.append("low / full macs on smaller images: quartiles " + ", ".join(f"{value:.3f}" for value in quartiles))
        slower = statistics.median(record.build_seconds / max(record.trace_seconds, 1e-3) for record in right)
        lines.append(f"build_pair takes {slower:.1f} × the time of tracing alone (median)")
    return lines


def to_markdown(records: Sequence[Record]) -> str:
    """The summary, then a row a family, then each model without a right pair with its reason."""
    models = poolable(records)
    lines = [*(f"- {line}" for line in summary_lines(records)), ""]
    lines += [
        "| family | models | right | median low / full macs | median kernels pooled |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for family in sorted({record.family for record in models}):
        members = [record for record in models if record.family == family]
        right = [record for record in members if record.status == "right"]
        ratio = f"{statistics.median(record.ratio for record in right):.3f}" if right else ""
        pooled = f"{statistics.median(record.pooled_convs for record in right):.0f}" if right else ""
        lines.append(f"| {family} | {len(members)} | {len(right)} | {ratio} | {pooled} |")
    failed = [record for record in models if record.status != "right"]
    if failed:
        lines += ["", "| no right pair | status | reason |", "| :-- | :-- | :-- |"]
        lines += [f"| {record.name} | {record.status} | {record.reason.replace('|', '¦')} |" for record in failed]
    return "\n".join(lines) + "\n"


def to_csv(records: Sequence[Record]) -> str:
    """One row a model."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for record in records:
        writer.writerow([getattr(record, name) for name in _COLUMNS])
    return stream.getvalue()


def plot(records: Sequence[Record], path: Path) -> None:
    """Low over full macs against full macs, one dot a right pair; the largest families have colours of their own."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    right = [record for record in records if record.status == "right" and record.full_macs]
    largest = [name for name, _ in Counter(record.family for record in right).most_common(len(_COLOURS))]
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for name, colour in [("other families", "#BBBBBB"), *zip(largest, _COLOURS, strict=False)]:
        others = name not in largest
        members = [record for record in right if (record.family not in largest if others else record.family == name)]
        for shrunk, marker in ((True, "o"), (False, "x")):
            dots = [record for record in members if record.downsample_input is shrunk]
            axes.scatter(
                [record.full_macs / 1e9 for record in dots],
                [record.ratio for record in dots],
                s=22,
                marker=marker,
                color=colour,
                alpha=0.8,
                linewidths=0.8,
                label=name if shrunk else None,
            )
    axes.axhline(0.25, color="#888888", linewidth=0.8, linestyle="--")
    at = axes.get_yaxis_transform()
    axes.text(1, 0.255, "half the resolution, kernels kept", color="#666666", ha="right", va="bottom", transform=at)
    axes.set(xscale="log", ylim=(0, 1.05), xlabel="Gmacs per image in full-mode", ylabel="low / full macs")
    axes.set_title("What low-mode costs, model by model (crosses: one image size only, kernels alone)")
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    figure.savefig(path, dpi=140)
    plt.close(figure)
