"""The modes of recent forwards, whose backward pass may still recompute an activation checkpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lowmode_fx.lowering.mode import Mode
from passes.trees import call_leaves

#: Number of forwards that are remembered.
MOST = 64
_Places = tuple[int, ...]


class RecentModes:
    """Modes by the memory of a forward's arguments: a checkpoint keeps these and passes them again."""

    def __init__(self) -> None:
        self._forwards: deque[tuple[_Places, Mode]] = deque(maxlen=MOST)

    def clear(self) -> None:
        """A step was taken; earlier forwards are finished."""
        self._forwards.clear()

    def note(self, mode: Mode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A forward with these arguments runs in ``mode``."""
        self._forwards.append((_places(args, kwargs), mode))

    def mode_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mode | None:
        """The mode in which this call ran first; for a call that is not remembered, the last mode.

        A backward pass recomputes the last of several equal calls first.
        """
        if not self._forwards:
            return None
        places = _places(args, kwargs)
        equal = [forward for forward in self._forwards if forward[0] == places]
        if not equal:
            return self._forwards[-1][1]
        if len(equal) > 1:
            self._forwards.reverse()
            self._forwards.remove(equal[-1])
            self._forwards.reverse()
        return equal[-1][1]


def _places(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Places:
    return tuple(map(_place, call_leaves(args, kwargs)))


def _place(leaf: Any) -> int:
    try:
        return leaf.data_ptr() if isinstance(leaf, Tensor) else 0
    except RuntimeError:  # a tensor without memory: fake, or batched by torch.func
        return 0
