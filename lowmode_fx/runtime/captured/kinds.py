"""Kinds of steps: a mode, a place in an optimizer step, and batch shapes. Each kind is recorded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.captured.parts import RecordedParts
from lowmode_fx.runtime.captured.recorded import Place, Recorded, same_tensors
from lowmode_fx.runtime.captured.signature import Signature


class Kind(NamedTuple):
    """Steps that differ only in the values of their batches."""

    mode: Mode
    place: Place
    signature: Signature


@dataclass
class Progress:
    """How often steps of one kind have run and been recorded, and their recording if there is one."""

    kind: Kind
    runs: int = 0
    captures: int = 0
    recorded: Recorded | RecordedParts | None = None

    def fits(self, gradients: Sequence[Tensor | None]) -> bool:
        """Whether there is a recording, and the gradients are those that it began with and adds to."""
        return self.recorded is not None and same_tensors(gradients, self.recorded.before)


class Kinds:
    """The kinds so far, one for each mode and place: that of the first batch, until another shape keeps coming."""

    def __init__(self) -> None:
        self.met: dict[tuple[Mode, Place], Progress] = {}
        self._other: dict[tuple[Mode, Place], Signature] = {}

    def clear(self) -> None:
        """Drop all of them, with their recordings."""
        self.met.clear()
        self._other.clear()

    def recorded_first(self, mode: Mode) -> Recorded | RecordedParts | None:
        """The recording of a mode's first batch of an optimizer step, which others follow."""
        progress = self.met.get((mode, Place(first=True, last=False)))
        return None if progress is None else progress.recorded

    def find(self, kind: Kind) -> Progress | None:
        """The progress of this kind; ``None`` for a batch of another shape than usual, such as a ragged last one."""
        where = kind.mode, kind.place
        progress = self.met.get(where)
        if progress is None:
            progress = self.met[where] = Progress(kind)
        if progress.kind.signature == kind.signature:
            self._other.pop(where, None)
            return progress
        return None

    def replaces(self, kind: Kind) -> bool:
        """Whether batches of this other shape keep coming, so that their kind replaces the first one."""
        where = kind.mode, kind.place
        if self._other.get(where) != kind.signature:
            self._other[where] = kind.signature
            return False
        self.met[where] = Progress(kind)
        return True
