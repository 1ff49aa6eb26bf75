"""Schedules choose the mode of each step: pure functions of (seed, step, epoch) (§3.1 of arXiv 1910.06548).

The schedules here keep no state and use no generator, so every rank, every loader worker and every resumed run gets the
same mode for the same step without communication. A schedule that decides during training measures, and is therefore in
``lowmode_fx.tuning.agreement_schedule``. A new schedule is a file here and a name in ``SCHEDULES``.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from lowmode_fx.runtime.schedules.base import (
    DrawnSchedule,
    MeasuringSchedule,
    PlannedSchedule,
    Schedule,
    StatefulSchedule,
    low_fraction,
    mode_fractions,
)
from lowmode_fx.runtime.schedules.bernoulli import BernoulliSchedule, annealed_shares
from lowmode_fx.runtime.schedules.draws import uniform_draw
from lowmode_fx.runtime.schedules.ladder import LadderSchedule
from lowmode_fx.runtime.schedules.milestones import lr_milestones
from lowmode_fx.runtime.schedules.periodic import PeriodicSchedule
from lowmode_fx.utils.validation import as_choice, check_names

__all__ = [
    "SCHEDULES",
    "BernoulliSchedule",
    "DrawnSchedule",
    "LadderSchedule",
    "MeasuringSchedule",
    "PeriodicSchedule",
    "PlannedSchedule",
    "Schedule",
    "StatefulSchedule",
    "annealed_shares",
    "low_fraction",
    "lr_milestones",
    "mode_fractions",
    "schedule_from_dict",
    "uniform_draw",
]

#: The schedules that a dict may hold, by their ``kind``.
SCHEDULES: dict[str, type[PlannedSchedule]] = {
    schedule.kind: schedule for schedule in (BernoulliSchedule, LadderSchedule, PeriodicSchedule)
}


def schedule_from_dict(values: Mapping[str, Any]) -> PlannedSchedule:
    """The schedule that ``to_dict`` wrote: ``kind`` and the schedule's arguments, at their defaults if missing.

    Raises ``ValueError`` for an unknown kind or argument, and what the schedule itself raises for a bad value.
    """
    arguments = dict(values)
    kind = arguments.pop("kind", None)
    schedule = SCHEDULES[as_choice("kind", kind, sorted(SCHEDULES))]
    check_names(f"a {kind} schedule", arguments, inspect.signature(schedule).parameters)
    return schedule(**arguments)
