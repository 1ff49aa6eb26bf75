"""``PeriodicSchedule``: the last steps of every period are low (deterministic schedule, §3.1 of arXiv 1910.06548)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules.base import PlannedSchedule
from lowmode_fx.runtime.schedules.per_epoch import as_per_epoch, value_at, varies
from lowmode_fx.utils.validation import as_count
from passes.errors import OptionError
from passes.spelling import setting

__all__ = ["PeriodicSchedule"]


@dataclass(frozen=True)
class PeriodicSchedule(PlannedSchedule):
    """The last ``low_steps`` steps of every ``period`` steps are low: the deterministic schedule of §3.1.

    Args:
        period: Number of optimizer steps of a period. Periods count global steps: a new epoch does not restart one.
        low_steps: Low steps per period, an int from 0 to ``period``, or a sequence with one per epoch (the last applies
            to later epochs).
        hold_epochs: Number of epochs that are full after each milestone.
        milestones: Epochs at which the learning rate changes, 0 for the start.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Warns:
        UserWarning: ``hold_epochs`` has no effect without milestones.
    """

    kind: ClassVar[str] = "periodic"
    period: int = 2
    low_steps: int | Sequence[int] = 1
    hold_epochs: int = 0
    milestones: Sequence[int] = ()

    def __post_init__(self) -> None:
        period = as_count("period", self.period, minimum=1)
        object.__setattr__(self, "period", period)

        def steps_in_period(name: str, value: int) -> int:
            steps = as_count(name, value)
            if steps > period:
                more = f"is more than {setting('period', period)}"
                raise OptionError(name, steps, more, f"give an int from 0 to {period}")
            return steps

        object.__setattr__(self, "low_steps", as_per_epoch("low_steps", self.low_steps, steps_in_period))
        self._check_hold()

    @property
    def varies_by_epoch(self) -> bool:
        """Whether ``low_steps`` differs between epochs, or epochs are held."""
        return varies(self.low_steps) or super().varies_by_epoch

    def mode(self, step: int, epoch: int) -> Mode:
        """Return the mode of an optimizer step.

        Args:
            step: Optimizer step, from 0 over the whole run.
            epoch: Epoch of the step, from 0.

        Raises:
            ValueError: ``step`` or ``epoch`` is negative.
        """
        step, epoch = as_count("step", step), as_count("epoch", epoch)
        if self.is_held(epoch):
            return Mode.FULL
        low_steps = value_at(self.low_steps, epoch)
        return Mode.LOW if step % self.period >= self.period - low_steps else Mode.FULL
