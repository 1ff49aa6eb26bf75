"""Options that are given and have no effect in this call: each prints a note."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lowmode_fx.cli.spelling import option_name
from passes.spelling import setting

#: Options of a low mode beside those of ``LowModeConfig``: a run without one has no use for them.
LOW_MODE_RUN = (
    *("low_weight", "batch_multiplier", "lr_rule", "lr_over"),
    *("shares", "schedule", "p", "tail", "period", "measure_every", "hold_epochs"),
)

#: Options of the learning rate, with the schedules that they are of.
OF_RATES = {
    "milestones": ("milestones",),
    "lr_gamma": ("milestones", "step", "exponential", "plateau"),
    "decay_epochs": ("step", "exponential"),
    "patience_epochs": ("plateau",),
}


def idle_options(
    given: Mapping[str, Any], low: Mapping[str, Any], *, schedule: str, lr_schedule: str, full_only: bool, growing: bool
) -> Iterator[str]:
    """A line for each option of ``train`` that is given (not None) and idle, saying what it would need.

    low: the options of ``LowModeConfig``. schedule, lr_schedule: those of the run. growing: whether batches grow.
    """
    if full_only:
        of_low_mode = {**low, **{name: given.get(name) for name in LOW_MODE_RUN}}
        for name, value in of_low_mode.items():
            if value is not None:
                yield _line(name, value, "a run with --full-only has no low-mode")
    else:
        for name, kind in (("period", "periodic"), ("measure_every", "agreement")):
            if given.get(name) is not None and schedule != kind:
                yield _line(name, given[name], f"it belongs to --schedule {kind}")
        if given.get("lr_rule") is not None and not growing:
            yield _line("lr_rule", given["lr_rule"], "no batches grow, as by --batch-multiplier above 1")
        if given.get("hold_epochs") is not None and schedule == "agreement":
            yield _line("hold_epochs", given["hold_epochs"], "--schedule agreement holds no epochs")
    for name, kinds in OF_RATES.items():
        if given.get(name) is not None and lr_schedule not in kinds:
            yield _line(name, given[name], f"the rate follows {setting('lr_schedule')} {lr_schedule}")


def _line(name: str, value: Any, why: str) -> str:
    shown = "" if value is True else f" {value}"
    return f"note: {option_name(name)}{shown} does nothing here: {why}"
