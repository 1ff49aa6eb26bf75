"""From the options of ``train`` to ``TrainSettings``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lowmode_fx.cli.options import comma_list
from lowmode_fx.train.settings import TrainSettings
from passes.errors import OptionError


def run_settings(preset: str | None, late_full: bool, planned: bool = True, **given: Any) -> TrainSettings:
    """The preset with the options given. Without either, the rate falls where the paper's does: at 40 and 60 %.

    late_full: full steps come last, to which these falls would leave a hundredth of the rate: it is a cosine instead,
    for the baseline too, and follows the macs of a schedule that is planned.
    """
    explicit = {name: value for name, value in given.items() if value is not None}
    if preset == "paper":
        return TrainSettings.paper(**explicit)
    if late_full and "milestones" not in explicit:
        explicit.setdefault("lr_schedule", "cosine")
        if planned and explicit["lr_schedule"] in ("cosine", "onecycle"):
            explicit.setdefault("lr_over", "macs")
    settings = TrainSettings(**explicit)
    if settings.lr_schedule != "milestones" or "milestones" in explicit:
        return settings
    falls = sorted({round(settings.epochs * share) for share in (0.4, 0.6)} - {0, settings.epochs})
    return replace(settings, milestones=tuple(falls))


def read_class_weights(text: str) -> str | tuple[float, ...]:
    """``balanced``, or a number for each class: ``1,1,5``. Raises ``OptionError`` for anything else."""
    if text == "balanced":
        return text
    parts = comma_list(text, "class_weights")
    try:
        return tuple(map(float, parts))
    except ValueError:
        problem, hint = "is no list of numbers", "give balanced, or such as 1,1,5"
        raise OptionError("class_weights", text, problem, hint) from None


def read_epochs(name: str, text: str) -> tuple[int, ...]:
    """``80,120``, of the option ``name``. Raises ``OptionError`` for anything else."""
    parts = comma_list(text, name)
    try:
        return tuple(map(int, parts))
    except ValueError:
        raise OptionError(name, text, "is no list of epochs", "give integers such as 80,120") from None
