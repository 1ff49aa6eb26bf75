"""Kinds of steps: a mode, a place in an optimizer step, and batch shapes. Each kind is recorded by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.captured.parts import RecordedParts
from lowmode_fx.runtime.captured.recorded import Place, Recorded, same_tensors
from lowmode_fx.runtime.captured.signature import Signature

#: Kinds that are recorded at a time.
MOST_RECORDED = 32
#: Kinds that are remembered, with those that have not been recorded.
MOST_MET = 512
#: Batches of a mode and a place whose signatures have come once each, until that is told.
MOST_SINGLE = 40


class Kind(NamedTuple):
    """Steps that differ only in the values of their batches."""

    mode: Mode
    place: Place
    signature: Signature


@dataclass
class Progress:
    """How often steps of one kind have run and been recorded, and their recording if there is one.

    ``met``, ``used``: when it came first and last, in batches since the last ``clear``.
    """

    kind: Kind
    met: int
    used: int = 0
    runs: int = 0
    captures: int = 0
    recorded: Recorded | RecordedParts | None = None

    def fits(self, gradients: Sequence[Tensor | None]) -> bool:
        """Whether there is a recording, and the gradients are those that it began with and adds to."""
        return self.recorded is not None and same_tensors(gradients, self.recorded.before)


class Kinds:
    """The kinds so far. ``met``: by mode and place, then by signature."""

    def __init__(self) -> None:
        self.met: dict[tuple[Mode, Place], dict[Signature, Progress]] = {}
        self._latest: dict[tuple[Mode, Place], Progress] = {}
        self._batches = 0

    def clear(self) -> None:
        """Drop all of them, with their recordings."""
        self.met.clear()
        self._latest.clear()
        self._batches = 0

    def find(self, mode: Mode, place: Place, signature: Signature) -> Progress:
        """The progress of the kind of a batch that has come."""
        self._batches += 1
        where = mode, place
        progress = self._latest.get(where)
        if progress is None or progress.kind.signature != signature:
            progress = self._latest[where] = self._find(Kind(mode, place, signature))
        progress.used = self._batches
        return progress

    def recorded(self) -> list[Progress]:
        """Those that are recorded, the least recently used one first."""
        found = [each for each in self._all() if each.recorded is not None]
        return sorted(found, key=lambda each: each.used)

    def give_up(self, progress: Progress) -> None:
        """Drop a recording; its kind is met anew when it comes again."""
        where = progress.kind.mode, progress.kind.place
        del self.met[where][progress.kind.signature]
        if self._latest.get(where) is progress:
            del self._latest[where]

    def begins(self, mode: Mode, gradients: Sequence[Tensor | None]) -> bool:
        """Whether a recording of a mode's first batch of an optimizer step, which others follow, leaves these."""
        group = self.met.get((mode, Place(first=True, last=False)), {})
        recordings = [each.recorded for each in group.values() if each.recorded is not None]
        return any(same_tensors(gradients, each.after) for each in recordings)

    def never_alike(self, progress: Progress) -> list[Signature]:
        """The last signatures of a mode and a place, if most of its batches had one that came only once."""
        group = list(self.met[progress.kind.mode, progress.kind.place].values())
        single = [each for each in group if each.runs <= 1]
        if len(single) < MOST_SINGLE or 2 * len(single) < sum(each.runs for each in group):
            return []
        return [each.kind.signature for each in single[-2:]]

    def _find(self, kind: Kind) -> Progress:
        group = self.met.setdefault((kind.mode, kind.place), {})
        progress = group.get(kind.signature)
        if progress is None:
            if sum(map(len, self.met.values())) >= MOST_MET:
                self._forget_older()
            progress = group[kind.signature] = Progress(kind, self._batches)
        return progress

    def _forget_older(self) -> None:
        """Forget half of the kinds that are not recorded, those that came least recently."""
        unrecorded = sorted((each for each in self._all() if each.recorded is None), key=lambda each: each.used)
        for each in unrecorded[: len(unrecorded) // 2]:
            self.give_up(each)

    def _all(self) -> list[Progress]:
        return [each for group in self.met.values() for each in group.values()]
