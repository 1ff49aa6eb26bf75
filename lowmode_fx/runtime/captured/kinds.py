"""Kinds of steps, each with the shapes of its batches: what is recorded once for all of its like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.captured.recorded import Place, Recorded, same_tensors
from lowmode_fx.runtime.captured.signature import Signature


class Kind(NamedTuple):
    """Steps that differ in the values of their batches alone."""

    mode: Mode
    place: Place
    signature: Signature


@dataclass
class Progress:
    """How far the steps of one kind have come: run so often, recorded or not."""

    kind: Kind
    runs: int = 0
    recorded: Recorded | None = None

    def fits(self, gradients: Sequence[Tensor | None]) -> bool:
        """Whether it is recorded, and gradients are those that the recording began with and adds to."""
        return self.recorded is not None and same_tensors(gradients, self.recorded.before)


class Kinds:
    """The kinds met so far, one for each mode and place: that of its first batch, until others keep coming."""

    def __init__(self) -> None:
        self.met: dict[tuple[Mode, Place], Progress] = {}
        self._other: dict[tuple[Mode, Place], Signature] = {}

    def clear(self) -> None:
        """Forget all of them, recordings included."""
        self.met.clear()
        self._other.clear()

    def recorded_first(self, mode: Mode) -> Recorded | None:
        """The recording of a mode's first batches, of those that an optimizer step adds up."""
        found = (progress.recorded for (other, place), progress in self.met.items() if other == mode and place.first)
        return next(found, None)

    def find(self, kind: Kind) -> Progress | None:
        """How far this kind has come; ``None`` for a batch of another shape than its like, as a ragged last one is."""
        where = kind.mode, kind.place
        progress = self.met.setdefault(where, Progress(kind))
        if progress.kind.signature == kind.signature:
            self._other.pop(where, None)
            return progress
        return None

    def replaces(self, kind: Kind) -> bool:
        """Whether batches of this other shape keep coming, so that their kind has taken the place of the first."""
        where = kind.mode, kind.place
        if self._other.get(where) != kind.signature:
            self._other[where] = kind.signature
            return False
        self.met[where] = Progress(kind)
        return True
