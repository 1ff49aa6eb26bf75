"""A schedule that is a list of modes, one a step."""

from __future__ import annotations

from collections.abc import Sequence

from lowmode_fx import Mode
from lowmode_fx.runtime.schedules.chosen import ChosenMode


class PlannedModes(ChosenMode):
    """``plan``: the mode of each step of a run; without one every step has the mode that was chosen last."""

    def __init__(self, plan: Sequence[str] = ()) -> None:
        super().__init__()
        self.follow(plan)

    def follow(self, plan: Sequence[str]) -> None:
        """From now on the steps of a run have these modes; of an empty plan, the mode that was chosen last."""
        self.plan = [Mode(mode) for mode in plan]

    def mode(self, step: int, epoch: int) -> Mode:
        """The mode of a step, the last one of those after the plan's end."""
        return self.plan[min(step, len(self.plan) - 1)] if self.plan else self.chosen

    def __repr__(self) -> str:  # tells runs apart
        return f"{type(self).__name__}({[str(mode) for mode in self.plan]})"
