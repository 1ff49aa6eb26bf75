"""A sweep in a picture: what low-mode costs, one dot a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.zoo.record import Record

#: Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


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
        for kinds, marker in ((("fits", "rounded"), "o"), (("resized",), "^"), (("whole",), "x")):
            dots = [record for record in members if record.kind in kinds]
            axes.scatter(
                [record.full_macs / 1e9 for record in dots],
                [record.ratio for record in dots],
                s=22,
                marker=marker,
                color=colour,
                alpha=0.8,
                linewidths=0.8,
                label=name if "fits" in kinds else None,
            )
    axes.axhline(0.25, color="#888888", linewidth=0.8, linestyle="--", label="half the resolution, kernels kept")
    axes.set(xscale="log", ylim=(0, 1.05), xlabel="Gmacs per image in full-mode", ylabel="low / full macs")
    axes.set_title("What low-mode costs, model by model (△ a map resized on the way, × whole images, kernels alone)")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=140)
    plt.close(figure)
