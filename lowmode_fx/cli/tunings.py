"""What ``lowmode-fx tune`` wrote, for ``train --tuned``: from its file, or as a run that goes on has recorded it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowmode_fx.cli.measured_on import difference
from lowmode_fx.lowering.config import LowModeConfig
from passes.errors import OptionError
from passes.spelling import as_argument, setting, spelled
from passes.wording import first_line

if TYPE_CHECKING:
    from lowmode_fx.tuning.result import Tuning

#: What a plan says of a run's schedule, by the names of a schedule's parts; ``""``: its modes as a whole.
_SCHEDULE = ("", "p", "kind", "epochs")
#: What a plan says of a run beside.
_PLANNED = (*_SCHEDULE, "low_weight", "batch_multiplier", "lr_rule", *(each.name for each in fields(LowModeConfig)))
#: Options after which modes and schedule are not the plan's alone.
_CHANGING = ("ratio", "kernel_ratio", "whole_images", "ladder", "shares", "schedule", "p", "tail", "full_only")


def read_tuning(path: Path) -> Tuning:
    """What ``lowmode-fx tune`` wrote. Raises ``ValueError`` for another file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        problem = f"can't be read ({error.strerror})" if isinstance(error, OSError) else "is no JSON"
        raise OptionError("tuned", path, problem, "make it with lowmode-fx tune") from error
    return _tuning(path, values, "is no result of lowmode-fx tune", "make one with it")


def chosen_tuning(path: Path, recorded: Mapping[str, Any] | None) -> tuple[Tuning, list[str]]:
    """The plan of a file, or the one that a run began with; with a note where the file has another one by now.

    Raises ``ValueError`` for values that are no plan.
    """
    if recorded is None:
        return read_tuning(path), []
    tuning = _tuning(path, recorded, "is recorded in the run's summary as no plan", "give it again by --tuned")
    try:
        now = read_tuning(path)
    except OptionError:
        changed = "is no plan any more" if path.exists() else ""  # one that is gone is not missed
    else:
        found = difference(tuning.to_dict(), now.to_dict())
        changed = f"has changed since the run began ({found})" if found else ""
    return tuning, [f"note: {path} {changed}: the run goes on with the plan that it began with"] if changed else []


def is_planned(name: str, given: Collection[str]) -> bool:
    """Whether a part of a low mode or its schedule is the plan's, no option ``given`` deciding it.

    name: of the part, ``""`` for the modes as a whole.
    """
    if name not in _PLANNED or name in given:
        return False
    return name not in (*_SCHEDULE, *_CHANGING) or not any(each in given for each in _CHANGING)


def other_plan(path: Path, difference: str, folder: Path, recorded: bool) -> OptionError:
    """The error for a run that is to go on with a plan that it did not begin with. recorded: the run holds its own."""
    own = f"leave {setting('tuned')} out, as in lowmode-fx train --resume {folder}: the run goes on with its own"
    again = f"{own if recorded else 'give the plan as it was'}, or give --overwrite or another --out"
    return OptionError("tuned", path, f"is not the plan that run {str(folder)!r} began with ({difference})", again)


def _tuning(path: Path, values: Any, problem: str, hint: str) -> Tuning:
    if not isinstance(values, dict):
        raise OptionError("tuned", path, problem, hint)
    from lowmode_fx.tuning.result import NO_RESULT, Tuning

    try:
        with spelled(as_argument):  # the file's values are no options
            return Tuning.from_dict(values)
    except (ValueError, TypeError) as error:
        with spelled(as_argument):
            told = first_line(error).partition(";")[0].removeprefix(NO_RESULT)
        raise OptionError("tuned", path, f"is {NO_RESULT}{told}", "make it with lowmode-fx tune") from error
