"""Bounds what recording costs: a recording must be paid back by replays."""

from __future__ import annotations

#: Times that all kinds of steps may be recorded without being paid back.
FREE_ROUNDS = 8
#: Replays that pay a recording back.
PAID_BACK = 50


class Budget:
    """Counts recordings against replays, whatever made them necessary.

    Each recording costs one; a change costs one too if nothing has been recorded since the change before, for the steps
    between them ran as warm-ups. ``PAID_BACK`` replays pay for one. As much as ``FREE_ROUNDS`` recordings of each kind
    may be owed, so that what changes once an epoch costs little for as long as training lasts.
    """

    def __init__(self) -> None:
        #: Replays so far.
        self.replays = 0
        self._paid = 0
        self._owed = 0.0
        self._kinds = 1
        self._recorded_since = False

    def allows(self) -> bool:
        """Whether more may be recorded."""
        self._settle()
        return self._owed <= FREE_ROUNDS * self._kinds

    def note_recording(self, kinds: int) -> None:
        """A step was recorded; now ``kinds`` of them are."""
        self._kinds = max(self._kinds, kinds)
        self._recorded_since = True
        self._settle()
        self._owed += 1

    def note_change(self) -> None:
        """All recordings were dropped, because a step would compute something else now."""
        self._settle()
        if not self._recorded_since:
            self._owed += 1
        self._recorded_since = False

    def _settle(self) -> None:
        self._owed = max(0.0, self._owed - (self.replays - self._paid) / PAID_BACK)
        self._paid = self.replays
