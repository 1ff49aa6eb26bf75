"""The modes of forwards whose backward pass may still come, and run a checkpointed one again."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lowmode_fx.lowering.mode import Mode
from passes.trees import call_leaves

#: Forwards that are remembered.
MOST = 64
_Places = tuple[int, ...]


class RecentModes:
    """By the memory of what a forward was given: a checkpoint keeps that, and gives it again."""

    def __init__(self) -> None:
        self._forwards: deque[tuple[_Places, Mode]] = deque(maxlen=MOST)

    def clear(self) -> None:
        """A step was taken: what came before it is done with."""
        self._forwards.clear()

    def note(self, mode: Mode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A forward of this call runs in ``mode``."""
        self._forwards.append((_places(args, kwargs), mode))

    def mode_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mode | None:
        """The mode in which this call ran first; of one that is not remembered, the last.

        Backward passes run the last of several equal calls first.
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
    except RuntimeError:  # one without memory: fake, or batched by torch.func
        return 0
