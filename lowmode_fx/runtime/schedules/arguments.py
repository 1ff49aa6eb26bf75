"""Checks of what schedules are given: each returns the value in its plain type, or says what is wrong with it."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsIndex, TypeVar

from lowmode_fx.runtime.schedules.draws import WORD

__all__ = ["as_count", "as_per_epoch", "as_probability", "as_seed", "as_share", "value_at"]

_Number = TypeVar("_Number", int, float)


def as_count(name: str, value: SupportsIndex, minimum: int = 0) -> int:
    """An int of at least ``minimum``. Raises ``TypeError`` or ``ValueError`` for anything else."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; give an int of at least {minimum}")
    count = operator.index(value)
    if count < minimum:
        raise ValueError(f"{name}={count} is too small; give an int of at least {minimum}")
    return count


def as_seed(value: SupportsIndex) -> int:
    """An int from 0 to 2**64 - 1. Raises ``TypeError`` or ``ValueError`` for anything else."""
    seed = as_count("seed", value)
    if seed > WORD:
        raise ValueError(f"seed={seed} does not fit in 64 bits; give an int from 0 to 2**64 - 1")
    return seed


def as_probability(name: str, value: float) -> float:
    """A float in [0, 1]. Raises ``TypeError`` or ``ValueError`` for anything else."""
    return _from_0_to_1(name, value, "probability")


def as_share(name: str, value: float) -> float:
    """A float in [0, 1]. Raises ``TypeError`` or ``ValueError`` for anything else."""
    return _from_0_to_1(name, value, "share")


def as_per_epoch(name: str, values: Any, check: Callable[[str, Any], _Number]) -> _Number | tuple[_Number, ...]:
    """One checked value for all epochs, or a tuple with one for each. Raises ``ValueError`` where there is none."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return check(name, values)
    checked = tuple(check(f"{name}[{epoch}]", value) for epoch, value in enumerate(values))
    if not checked:
        raise ValueError(f"{name} is empty; give one value for each epoch, or a single value for all of them")
    return checked


def value_at(values: _Number | Sequence[_Number], epoch: int) -> _Number:
    """The value of ``epoch``; the last one goes on for later epochs."""
    return values[min(epoch, len(values) - 1)] if isinstance(values, Sequence) else values


def _from_0_to_1(name: str, value: float, noun: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; give a number from 0 to 1")
    # Written so that not-a-number fails too.
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={value!r} is no {noun}; give a number from 0 to 1")
    return float(value)
