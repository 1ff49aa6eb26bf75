"""Where a run is, by step and epoch, and the mode that its schedule gives there: saved and resumed with a run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.epoch_reminder import EpochReminder
from lowmode_fx.runtime.saved_schedule import SavedSchedule
from lowmode_fx.runtime.schedules import Schedule, StatefulSchedule
from lowmode_fx.runtime.step_counter import StepCounter
from lowmode_fx.utils.validation import as_count, wrong_type


class RunPosition:
    """The schedule of a net, and how far a run has come in it.

    ``counter``: counts the steps, and saves this with the optimizers that take them. ``reminder``: warns where nobody
    sets the epoch.
    """

    def __init__(self, ladder: Ladder, schedule: Schedule) -> None:
        self.schedule = schedule
        self.epoch = 0
        self.counter = StepCounter(ladder.model.parameters, SavedSchedule(self._saved, self._go_on_from))
        self.reminder = EpochReminder()
        self._ladder = ladder

    @property
    def step(self) -> int:
        """Number of optimizer steps so far."""
        return self.counter.step

    def mode_at(self, step: int, epoch: int) -> Mode:
        """The mode of a step, as the ladder names it. Raises ``ValueError`` if the ladder does not have it."""
        mode = self.schedule.mode(step, epoch)
        try:
            return self._ladder.resolve(mode)
        except ValueError as error:
            modes, kind = self._ladder.modes, type(self.schedule).__name__
            raise ValueError(
                f"{kind} chooses mode {str(mode)!r}, which is not one of this ladder's {len(modes)}: "
                f"{', '.join(map(str, modes))}; give a schedule of these, such as LadderSchedule"
            ) from error

    def set_epoch(self, epoch: int) -> None:
        """``epoch`` begins."""
        self.epoch = epoch
        self.reminder.epoch_is_set()

    def state(self) -> dict[str, Any]:
        """The step, the epoch and, of a schedule that has state, its decisions."""
        state: dict[str, Any] = {"step": self.step, "epoch": self.epoch}
        if isinstance(self.schedule, StatefulSchedule):
            state["schedule"] = self.schedule.state_dict()
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from ``state()``. Raises ``KeyError`` if an entry is missing, ``TypeError`` for another state."""
        if not isinstance(state, Mapping):
            raise wrong_type("state", state, "what net.schedule_state() returned")
        wanted = ("step", "epoch", *(("schedule",) if isinstance(self.schedule, StatefulSchedule) else ()))
        for name in wanted:
            if name not in state:
                raise KeyError(f"state has no {name!r}; give what net.schedule_state() returned")
        step, epoch = as_count("state['step']", state["step"]), as_count("state['epoch']", state["epoch"])
        if isinstance(self.schedule, StatefulSchedule):
            self.schedule.load_state_dict(state["schedule"])
        self._go_on(step, epoch)

    def become_copy_of(self, other: RunPosition) -> None:
        """Count no steps until an optimizer trains the copy, and warn where ``other`` would."""
        self.counter.waits = True
        self.reminder = copy.copy(other.reminder)

    def _saved(self) -> dict[str, Any]:
        """What is saved with an optimizer: the state, and which modes it is for."""
        return {**self.state(), "modes": _names(self._ladder)}

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        """Resume from an optimizer's state, which may be from a run with another schedule, or with other modes."""
        self._go_on(int(state["step"]), int(state.get("epoch", 0)))
        here, there = _names(self._ladder), state.get("modes")  # older checkpoints have none
        if there not in (None, here):
            warnings.warn(
                f"the optimizer's state is of a run with the modes {there}, and this net has {here}; it goes on from "
                f"step {self.step}, epoch {self.epoch} of its own schedule: call net.load_schedule_state({{'step': 0, "
                "'epoch': 0}) to begin with its first mode",
                stacklevel=7,
            )
        if isinstance(self.schedule, StatefulSchedule) and "schedule" in state:
            self.schedule.load_state_dict(state["schedule"])

    def _go_on(self, step: int, epoch: int) -> None:
        self.counter.go_on_from(step)
        self.epoch = epoch
        if epoch:
            self.reminder.epoch_is_set()


def _names(ladder: Ladder) -> str:
    return ", ".join(map(str, ladder.modes))
