"""``--tuned`` beside other options: which of them a plan of several low modes excludes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.rung_names import rung_names
from passes.spelling import setting

#: Options after which modes are named.
_NAMING = ("ratio", "kernel_ratio", "whole_images")


def check_over_plan(
    tuned: Path,
    planned: Sequence[LowModeConfig],
    configs: Sequence[LowModeConfig],
    low: Mapping[str, Any],
    *,
    kind: str,
    p: str | None,
    tail: float | None,
) -> None:
    """Refuse options at odds with a tuning of several low modes: other schedules than a ladder's, other ratios.

    planned: its modes; configs: the same with ``low``, the options of a low mode. kind, p, tail: of the run's schedule.

    Raises ``ValueError`` that names the options.
    """
    if len(planned) == 1:
        return
    names, now = ([str(mode) for mode, _ in rung_names(each)] for each in (planned, configs))
    plan = f"{setting('tuned', tuned)} plans {len(names)}, {', '.join(names)}"
    schedule = {"schedule": kind} if kind in ("periodic", "agreement") else {"p": p, "tail": tail}
    given = [setting(name, value) for name, value in schedule.items() if value is not None]
    if given:
        several = len(given) > 1
        raise ValueError(
            f"{' and '.join(given)} {'are' if several else 'is'} for one low mode, and {plan}; leave "
            f"{'them' if several else 'it'} out, or give {setting('shares')}"
        )
    if names != now:
        options = [setting(name, low[name]) for name in _NAMING if low.get(name) is not None]
        raise ValueError(
            f"{' and '.join(options)} would make other low modes, {', '.join(now)}, and {plan}; leave "
            f"{'them' if len(options) > 1 else 'it'} out"
        )
