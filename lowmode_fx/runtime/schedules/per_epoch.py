"""Arguments that are one value for all epochs, or one value per epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

__all__ = ["as_per_epoch", "value_at", "varies"]

_Number = TypeVar("_Number", int, float)


def as_per_epoch(name: str, values: Any, check: Callable[[str, Any], _Number]) -> _Number | tuple[_Number, ...]:
    """One checked value for all epochs, or a tuple with one per epoch. Raises ``ValueError`` if it is empty."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return check(name, values)
    checked = tuple(check(f"{name}[{epoch}]", value) for epoch, value in enumerate(values))
    if not checked:
        raise ValueError(f"{name} is empty; give one value per epoch, or a single value for all epochs")
    return checked


def varies(values: Any) -> bool:
    """Whether epochs have different values; a function of the epoch counts as if they had."""
    return callable(values) or (isinstance(values, Sequence) and len(set(values)) > 1)


def value_at(values: _Number | Sequence[_Number], epoch: int) -> _Number:
    """The value of ``epoch``; the last one applies to later epochs."""
    return values[min(epoch, len(values) - 1)] if isinstance(values, Sequence) else values
