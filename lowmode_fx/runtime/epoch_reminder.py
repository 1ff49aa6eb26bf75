"""Warns where training goes on and nobody says which epoch it is, though the schedule goes by epochs."""

from __future__ import annotations

import warnings

from lowmode_fx.runtime.schedules import Schedule

#: Steps after which a run without evaluation is told: the first epoch of a small set is over by then.
TOLD_AFTER = 1000


class EpochReminder:
    """Warns once where ``set_epoch`` is forgotten: the schedule would stay in its first epoch without a word.

    It is forgotten once training goes on after an evaluation, or after the steps of an epoch, if they are known, or
    ``TOLD_AFTER`` steps. A schedule that is the
    same in all epochs, or doesn't say by ``varies_by_epoch``, needs no ``set_epoch``.
    """

    def __init__(self) -> None:
        self._done = False
        self._evaluated = False
        self._first: int | None = None  # step of the first training forward
        self._steps_of_epoch: int | None = None

    def epoch_is_set(self) -> None:
        """Someone says which epoch it is."""
        self._done = True

    def epoch_has(self, steps: int) -> None:
        """Someone says how many optimizer steps an epoch has."""
        self._steps_of_epoch = steps

    def evaluation(self) -> None:
        """A forward in eval mode has begun. One before the first training forward is a check of the model alone."""
        self._evaluated = self._first is not None

    def training(self, schedule: Schedule, step: int, epoch: int) -> None:
        """A training forward of ``step`` has begun."""
        if self._done:
            return
        if self._first is None:
            self._first = step
        if not self._evaluated and step - self._first < (self._steps_of_epoch or TOLD_AFTER):
            return
        self._done = True
        if not getattr(schedule, "varies_by_epoch", False):
            return
        since = "training goes on after an evaluation" if self._evaluated else f"{step - self._first} steps"
        warnings.warn(
            f"{since} without net.set_epoch, so {type(schedule).__name__}, which goes by epochs, stays in epoch "
            f"{epoch}; call net.set_epoch(epoch) before each epoch",
            stacklevel=5,
        )
