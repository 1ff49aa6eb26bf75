"""What the tuner and the probe found, as tables and as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lowmode_fx.cli.formats import ProbeFormat
from lowmode_fx.tuning.candidate import Candidate
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.sensitivity import ModelProbe
from lowmode_fx.utils.plotting import BLUE, GREEN, INK, MUTED, VERMILLION, draw_picture
from lowmode_fx.utils.tables import csv_table, rendered, text_table, with_error
from lowmode_fx.utils.validation import as_choice

_BAR = 24  # characters of the longest bar of a table


def tuning_table(tuning: Tuning, most: int = 16) -> str:
    """Every candidate, the best first: cost and gain of a low step, and the time of the plan with it."""
    head = ("low-mode", "low step / full", "gain by gradients", "in trial runs", "weight", "low + full epochs", "time")
    table = text_table(head)
    for candidate in tuning.candidates[:most]:
        table.add_row(*_cells(candidate))
    lines = [rendered(table)]
    if len(tuning.candidates) > most:
        lines.append(f"… and {len(tuning.candidates) - most} that would take longer")
    lines += [f"refused: {name}: {reason}" for name, reason in tuning.refused]
    return "\n".join([*lines, "", *tuning.reasons])


def _cells(candidate: Candidate) -> tuple[str, ...]:
    gains = [with_error(each.gain, each.gain_error) for each in candidate.progress]
    trials = [f"{gain:.2f}" for gain in candidate.trial_gains[:-1]]
    trials += [with_error(gain, candidate.trial_error) for gain in candidate.trial_gains[-1:]]
    plan = candidate.plan
    return (
        candidate.name,
        with_error(candidate.cost, candidate.cost_error),
        " → ".join(gains),
        " → ".join(trials),
        f"{candidate.weight:.2f}",
        f"{plan.low_epochs:.1f} + {plan.full_epochs:.1f}",
        f"{plan.time:.0%}",
    )


def probe_text(name: str, probe: ModelProbe, style: str = "table") -> str:
    """The probe as a ``"table"`` with bars, as ``"json"`` or as ``"csv"``. Raises ``ValueError`` for another style."""
    if style == "json":
        return json.dumps({"name": name, **asdict(probe)}, indent=2)
    if style == "csv":
        rows = [(s.name, s.kernel, s.pooled, f"{s.saved:.6g}", f"{s.lost:.6g}") for s in probe.sites]
        return csv_table(("site", "kernel", "pooled", "macs_saved", "agreement_lost"), rows)
    as_choice("format", style, get_args(ProbeFormat))
    table = text_table(("site", "kernel", "pooled", "macs saved", "", "agreement", "±", ""))
    longest = [max((abs(value) for value in values), default=0) or 1 for values in _columns(probe)]
    for site in probe.sites:
        bars = [_bar(value / most) for value, most in zip((site.saved, -site.lost), longest, strict=True)]
        error = f"{site.lost_error:.3f}"
        table.add_row(
            site.name, site.kernel, site.pooled, f"{site.saved:.2%}", bars[0], _signed(-site.lost), error, bars[1]
        )
    lines = [
        f"{name} after {probe.step} full steps: cosine of full and low gradients on the same batches",
        f"kernels kept {probe.kept:.3f} (low / full macs {probe.kept_macs:.3f}), all pooled {probe.pooled:.3f} "
        f"({probe.pooled_macs:.3f}); two different full batches {probe.ceiling:.3f}",
        "each kernel pooled alone: macs saved, as a share of full-mode's, and the change of agreement (that cosine): "
        "less than 0 is worse (░), more is better (█)",
        "",
        rendered(table),
    ]
    return "\n".join(lines)


def plot_probe(name: str, probe: ModelProbe, path: Path) -> None:
    """A PNG with two bars a site: macs saved, and the change of agreement with its standard error."""
    draw_picture(path, max(3.0, 0.29 * len(probe.sites) + 2.0), lambda figure: _draw_probe(figure, name, probe))


def _draw_probe(figure: Figure, name: str, probe: ModelProbe) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(probe.sites))
    saved, change = _columns(probe)
    left.barh(places, [100 * value for value in saved], color=BLUE, height=0.7)
    errors = [site.lost_error if site.lost_error == site.lost_error else 0.0 for site in probe.sites]
    colours = [VERMILLION if value < 0 else GREEN for value in change]
    right.barh(places, change, xerr=errors, color=colours, height=0.7, error_kw={"ecolor": MUTED, "capsize": 2})
    left.set_yticks(places, [f"{site.name}  {site.kernel} → {site.pooled}" for site in probe.sites], fontsize=9)
    left.invert_yaxis()
    left.set_xlabel("macs saved, % of a full forward")
    right.set_xlabel("change of agreement (cosine)")
    right.axvline(0, color=INK, linewidth=0.8)
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
        axes.margins(y=0.01)
    figure.suptitle(
        f"{name}: each kernel pooled alone, after {probe.step} full steps\n"
        f"cosine of full and low gradients {probe.kept:.2f} with all kept, {probe.pooled:.2f} with all pooled",
        x=0.01, ha="left", fontsize=11,
    )  # fmt: skip
    bars = [
        Patch(color=VERMILLION, label="worse: agreement lost"),
        Patch(color=GREEN, label="better: agreement gained"),
    ]
    shown = [bar for bar, colour in zip(bars, (VERMILLION, GREEN), strict=True) if colour in colours]
    figure.legend(handles=shown, loc="outside lower right", ncols=2)


def _columns(probe: ModelProbe) -> tuple[list[float], list[float]]:
    return [site.saved for site in probe.sites], [-site.lost for site in probe.sites]


def _signed(change: float) -> str:
    return f"{change:+.3f}".replace("-", "−")


def _bar(share: float) -> str:
    return "█" * round(_BAR * share) if share >= 0 else "░" * round(-_BAR * share)
