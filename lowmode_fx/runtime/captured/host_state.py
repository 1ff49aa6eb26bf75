"""State of the host that a replay does not move: generators of random numbers, iterators, arrays."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

import torch

from passes.preserve.generators import generator_state
from passes.preserve.holdings import ITERATORS, Holdings

#: Size in bytes of the largest array whose values are compared before every step, and while steps are rehearsed, and of
#: all of them together.
SMALL_ARRAY, LARGEST_ARRAY = 2**12, 2**16
_ALL_SMALL, _ALL = 2**15, 2**22


class HostState:
    """The generators, iterators and arrays of numpy that some code holds."""

    def __init__(self, held: Holdings) -> None:
        self._generators = [each for each in held.generators if not _on_device(each)]
        self._iterators = [iterator for _, _, iterator in held.iterators]
        self._containers = [(container, key) for container, key, _ in held.iterators]
        self._arrays = _up_to(held.arrays, LARGEST_ARRAY, _ALL)
        self._small = _up_to(self._arrays, SMALL_ARRAY, _ALL_SMALL)
        self._values = self._read_small()

    def read(self) -> list[Any]:
        """Everything, to compare it before and after a step."""
        # In words: numpy's states hold arrays, which can't be compared at once.
        found: list[Any] = [repr(generator_state(each)) for each in self._generators]
        found += [each.tobytes() for each in self._arrays]
        if self._iterators:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # copies of itertools end with Python 3.14
                found += map(_known_position, self._iterators)
        return found

    def moved(self, now: list[Any], before: list[Any]) -> tuple[str, Any, Any]:
        """The first thing that a step has moved, in words; the object or its container, and its key there, if any."""
        kinds = [("draws from a generator of its own", each, None) for each in self._generators]
        kinds += [("writes to an array on the host", each, None) for each in self._arrays]
        kinds += [("moves an iterator", container, key) for container, key in self._containers]
        return next(kind for kind, new, old in zip(kinds, now, before, strict=True) if not _is_equal(new, old))

    def changed_array(self) -> Any | None:
        """A small array that has other values, or another type or shape, than at first, if there is one."""
        if not self._small or self._read_small() == self._values:
            return None
        pairs = zip(self._small, self._read_small(), self._values, strict=True)
        return next(each for each, now, before in pairs if now != before)

    def _read_small(self) -> list[Any]:
        return [(each.tobytes(), each.dtype, each.shape) for each in self._small]


def _is_equal(now: Any, before: Any) -> bool:
    try:
        return bool(now == before)
    except (RuntimeError, ValueError):  # tensors that an iterator holds can't be compared
        return False


def moved_what(now: tuple[Any, Any], before: tuple[Any, Any]) -> str | None:
    """What a step has moved, if anything: from the states of global generators and of what its code holds."""
    if now[0] != before[0]:
        return "draws random numbers on the host"
    return (
        None
        if _is_equal(now[1], before[1])
        else "draws from a generator of its own, moves an iterator or writes to an array on the host"
    )


def host_draws(device: torch.device) -> tuple[Any, ...]:
    """The states of global generators on the host: Python's, numpy's, and torch's for a CPU besides ``device``."""
    numpy = sys.modules.get("numpy.random")
    state = None if numpy is None else numpy.get_state(legacy=False)
    drawn = None if state is None else (state["state"]["key"].tobytes(), state["state"]["pos"], state["has_gauss"])
    on_cpu = torch.get_rng_state().numpy().tobytes() if device.type != "cpu" else None
    return random.getstate(), drawn, on_cpu


def _up_to(arrays: Iterable[Any], largest: int, most: int) -> list[Any]:
    """The arrays of at most ``largest`` bytes, until they have ``most`` in all, counting 64 more for each."""
    found = [each for each in arrays if each.nbytes <= largest]
    sizes = accumulate(each.nbytes + 64 for each in found)
    return [each for each, size in zip(found, sizes, strict=True) if size <= most]


def _on_device(generator: Any) -> bool:
    return isinstance(generator, torch.Generator) and generator.device.type != "cpu"


def _known_position(iterator: Iterator[Any]) -> Any:
    """The position of an iterator; ``None`` if it is unknown, as that of one over a dictionary that has grown."""
    try:
        return _position(iterator)
    except Exception:
        return None


def _position(part: Any) -> Any:
    """Where an iterator, or a part of one, stands: what it would be copied from."""
    if isinstance(part, Iterator):
        return [_position(each) for each in part.__reduce__()] if type(part) in ITERATORS else id(part)
    return [_position(each) for each in part] if type(part) in (list, tuple) and _has_iterator(part) else _kept(part)


def _has_iterator(parts: Iterable[Any]) -> bool:
    return any(isinstance(each, Iterator | tuple) for each in parts)


def _kept(part: Any) -> Any:
    # A cycle adds to a list what it has seen.
    return len(part) if type(part) is list else part
