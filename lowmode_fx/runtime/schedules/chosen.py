"""A schedule whose mode is set from outside, for timing steps."""

from __future__ import annotations

from lowmode_fx.lowering.mode import Mode


class ChosenMode:
    """Every step has the mode that was set last, ``schedule.chosen = mode``; at first it is full-mode."""

    def __init__(self) -> None:
        self.chosen = Mode.FULL

    def mode(self, step: int, epoch: int) -> Mode:
        """The chosen mode, whatever the step."""
        return self.chosen
