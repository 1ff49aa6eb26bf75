"""One batch of indices or samples, with the mode of its step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

from lowmode_fx.lowering.mode import Mode


class ModeList(list[Any]):
    """Indices or samples of one batch, with the mode of its step, which survives pickling and slicing."""

    mode: Mode

    @classmethod
    def of(cls, values: Iterable[Any], mode: Mode) -> ModeList:
        """``values`` of a batch in ``mode``."""
        made = cls(values)
        made.mode = mode
        return made

    def __getitem__(self, place: SupportsIndex | slice) -> Any:
        found = super().__getitem__(place)
        return ModeList.of(found, self.mode) if isinstance(place, slice) else found

    def __add__(self, others: Any) -> Any:
        return ModeList.of(super().__add__(others), self.mode)
