"""Which kinds of steps are recorded at a time: a bounded number of them, and only those that come again."""

from __future__ import annotations

from lowmode_fx.runtime.captured.budget import Budget
from lowmode_fx.runtime.captured.complaints import warn
from lowmode_fx.runtime.captured.differences import difference
from lowmode_fx.runtime.captured.kinds import MOST_RECORDED, Kinds, Progress
from lowmode_fx.runtime.captured.signature import Signature


class Room:
    """Gives up recordings for others, and tells once what runs uncaptured for lack of room, and once what never recurs.

    The least recently used recording is given up for a kind that has come three times since. If all are used more often
    than that, as where more kinds take turns than are kept, the new one stays uncaptured: else none would be replayed.
    """

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._told_full = self._told_new = False

    def make(self, progress: Progress, budget: Budget) -> list[Signature] | None:
        """Make room for a kind. Returns the signatures that no recording has any more; ``None`` if it has to wait."""
        recorded = self._kinds.recorded()
        if progress.recorded is not None or len(recorded) < MOST_RECORDED:
            return []
        oldest, *others = recorded
        if oldest.used > progress.met or not budget.allows():
            self._tell_full(budget)
            return None
        self._kinds.give_up(oldest)
        signature = oldest.kind.signature
        kept = any(each.kind.signature == signature for each in (progress, *others))
        return [] if kept else [signature]

    def note_new(self, progress: Progress) -> None:
        """A kind has come for the first time."""
        signatures = [] if self._told_new else self._kinds.never_alike(progress)
        if signatures:
            self._told_new = True
            before, now = signatures
            warn(
                f"steps in {progress.kind.mode}-mode whose batches have a form that does not come again run "
                f"uncaptured: {difference(now, before)}"
            )

    def _tell_full(self, budget: Budget) -> None:
        if self._told_full:
            return
        self._told_full = True
        reason = "take turns" if budget.allows() else "come, each a few times"
        warn(
            f"more than {MOST_RECORDED} kinds of steps (mode, place among accumulated batches, form of the batch) "
            f"{reason}: {MOST_RECORDED} stay captured, and others run uncaptured; give batches of fewer shapes"
        )
