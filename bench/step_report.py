"""The step times as tables: ratios of times and multiply-adds, targets, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from pathlib import Path
from typing import Any

from bench.step_functions import COMPILED, EAGER, GRAPHS, LOW, WHOLE
from bench.step_profile import CONVOLUTION, ELEMENTWISE, GROUPS, NORM, POOLING
from bench.whole_step_report import TARGETS as WHOLE_TARGETS
from bench.whole_step_report import whole_step_table
from lowmode_fx.utils.tables import markdown_table

#: Targets for low / full, by device; the paper's own figures are 0.37 and 0.39.
TARGETS = {
    ("cpu", "compiled", "resnet18-cifar"): 0.06,
    ("cpu", "compiled", "resnet50-cifar"): 0.11,
    ("cuda", "cuda graphs", "resnet18-cifar"): 0.15,
    ("cuda", "cuda graphs", "resnet50-cifar"): 0.20,
    **{("cuda", WHOLE, name): aims[LOW] for name, aims in WHOLE_TARGETS.items() if LOW in aims},
}
PAPER = {"resnet18-cifar": 0.37, "resnet50-cifar": 0.39}
KINDS = (EAGER, COMPILED, GRAPHS, WHOLE)
#: Pixels of a low-mode map divided by full-mode's: r = 2 everywhere here.
PIXELS = 1 / 4


def expected(row: Mapping[str, Any], kind: str) -> float | None:
    """Low / full if convolutions followed macs, norms and elementwise work their pixels, and the rest was constant.

    ``None`` if the full step has no profile.
    """
    shares = row[kind].get("profile", {}).get("full", {}).get("shares")
    if shares is None:
        return None
    follow = {CONVOLUTION: float(row["mac_ratio"]), NORM: PIXELS, ELEMENTWISE: PIXELS}
    return sum(float(share) * follow.get(group, 1.0) for group, share in shares.items())


def ratio_table(rows: Mapping[str, Any], device: str) -> str:
    """Markdown: one row per network and kind; absolute times only from a GPU."""
    gpu = device == "cuda"
    head = ["network", "step", "low / full", "quartiles", "macs", "macs and pixels", "time / macs", "resolution only"]
    head += ["plain compiled", "target", "paper", "memory low / full", *(["full, ms", "low, ms"] if gpu else [])]
    lines = []
    for name, row in rows.items():
        for kind in (kind for kind in KINDS if kind in row):
            found, ratio = row[kind], row[kind]["low / full"]
            plain, memory = found.get("plain compiled full / full"), found.get("peak memory, bytes")
            target, paper = TARGETS.get((device, kind, name)), PAPER.get(name)
            cells = [name, kind, f"{ratio['median']:.3f}", f"{ratio['q1']:.3f} to {ratio['q3']:.3f}"]
            cells += [f"{row['mac_ratio']:.3f}", _decimals(expected(row, kind))]
            cells += [f"{found['time / macs']:.2f}" if "time / macs" in found else ""]
            cells += [f"{found['resolution only / full']['median']:.3f}", f"{plain['median']:.3f}" if plain else ""]
            cells += [f"≤ {target:.2f}" if target else "", f"{paper:.2f}" if paper else ""]
            cells += [f"{memory['low'] / memory['full']:.2f}" if memory else ""]
            seconds = [found.get(f"{mode} seconds", {}).get("median") for mode in ("full", "low")] if gpu else []
            lines.append(cells + ["" if value is None else f"{1000 * value:.2f}" for value in seconds])
    return markdown_table(head, lines, left=2)


def short_table(rows: Mapping[str, Any], device: str) -> str:
    """Markdown for the documentation: our ratio, the paper's, the peer's in the same run, and the bound set by macs.

    Columns without a value are left out.
    """
    head = ["network", "step", "low / full", "the paper (its GPU)", "images halved, kernels kept", "macs alone"]
    head += ["macs and pixels", "aimed at", "peak memory"]
    lines = []
    for name, row in rows.items():
        for kind in (kind for kind in KINDS if kind in row):
            found, ratio = row[kind], row[kind]["low / full"]
            target, paper, memory = TARGETS.get((device, kind, name)), PAPER.get(name), found.get("peak memory, bytes")
            spread = f"({ratio['q1']:.3f} to {ratio['q3']:.3f}, n = {ratio['n']})"
            cells = [name, kind, f"**{ratio['median']:.3f}** {spread}", f"{paper:.2f}" if paper else ""]
            cells += [f"{found['resolution only / full']['median']:.3f}", f"{row['mac_ratio']:.3f}"]
            cells += [_decimals(expected(row, kind)), f"≤ {target:.2f}" if target else ""]
            cells += [f"{memory['low'] / memory['full']:.2f}" if memory else ""]
            lines.append(cells)
    filled = [any(column) for column in zip(*lines, strict=True)] if lines else [True] * len(head)
    return markdown_table(list(compress(head, filled)), [list(compress(line, filled)) for line in lines], left=2)


def profile_table(rows: Mapping[str, Any]) -> str:
    """Markdown: the shares of each group in a step's busy time, in %; gaps are a share of its whole time.

    A compiler fuses the pooling of kernels with norms and more, so that only eager steps show it.
    """
    head = ["network", "step", "mode", *GROUPS, "gaps"]
    lines = []
    for name, row in rows.items():
        for kind in (kind for kind in KINDS if kind in row):
            for mode, found in row[kind].get("profile", {}).items():
                gaps = f"{100 * found['gaps']:.0f}" if "gaps" in found else ""
                shares = ["" if kind != "eager" and group == POOLING else _whole(found, group) for group in GROUPS]
                lines.append([name, kind, mode, *shares, gaps])
    return markdown_table(head, lines, left=3)


def largest_table(rows: Mapping[str, Any]) -> str:
    """Markdown: the operators with the largest shares in its busy time in %."""
    lines: list[list[str]] = []
    for name, row in rows.items():
        for kind in (kind for kind in KINDS if kind in row):
            found = row[kind].get("profile", {}).get("low", {}).get("largest", {})
            lines += [[name, kind, f"`{operator:.90}`", f"{100 * share:.0f}"] for operator, share in found.items()]
    return markdown_table(["network", "step", "operator, with its inputs", "%"], lines, left=3)


def _decimals(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"


def _whole(found: Mapping[str, Any], group: str) -> str:
    return f"{100 * found['shares'][group]:.0f}"


def report(rows: Mapping[str, Any], path: Path, device: str) -> None:
    """Write ``.md`` next to the result file."""
    ratios = f"# A low step over a full one\n\n{ratio_table(rows, device)}"
    whole = whole_step_table(rows, device)
    if whole:
        ratios += f"\n\n## Whole steps, beside peers as they run by default\n\n{whole}"
    path.parent.mkdir(parents=True, exist_ok=True)
    shares = f"## Where the time goes, in %\n\n{profile_table(rows)}"
    operators = f"## What takes most of a low step\n\n{largest_table(rows)}"
    path.with_suffix(".md").write_text(f"{ratios}\n\n{shares}\n\n{operators}\n")
