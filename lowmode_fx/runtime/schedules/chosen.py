"""A schedule whose mode is set from outside, where steps are timed rather than trained with."""

from __future__ import annotations

from lowmode_fx.lowering.mode import Mode


class ChosenMode:
    """Every step has the mode that was set last: ``schedule.chosen = mode``, full-mode at first."""

    def __init__(self) -> None:
        self.chosen = Mode.FULL

    def mode(self, step: int, epoch: int) -> Mode:
        """The chosen one, whatever the step."""
        return self.chosen
