"""Checks of arguments: each returns the value in its plain type, or raises an error that says what to give instead.

Messages are one line, ``name=value is …; give …``: an ``OptionTypeError`` (a ``TypeError``) for a value of the wrong
type, an ``OptionError`` (a ``ValueError``) for one that is out of range or unknown.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex, TypeVar

from passes.errors import NO_VALUE, OptionError, OptionTypeError
from passes.wording import any_of, near_matches_hint

Choice = TypeVar("Choice")


def wrong_type(name: str, value: Any, give: str) -> OptionTypeError:
    """The error for a value of the wrong type. ``give``: what to give instead."""
    # The repr of a tensor or a model would fill the line.
    shown = value if isinstance(value, bool | numbers.Number | str | None) else NO_VALUE
    return OptionTypeError(name, shown, f"is of type {type(value).__name__}", f"give {give}")


def as_count(name: str, value: SupportsIndex, minimum: int = 0, most: int | None = None) -> int:
    """An int of at least ``minimum``, at most ``most``. Raises ``TypeError`` or ``ValueError`` otherwise."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise wrong_type(name, value, f"an int of at least {minimum}")
    count = operator.index(value)
    if count < minimum:
        raise OptionError(name, count, "is too small", f"give an int of at least {minimum}")
    if most is not None and count > most:
        raise OptionError(name, count, "is too large", f"give an int from {minimum} to {most}")
    return count


def as_seed(value: SupportsIndex) -> int:
    """An int from 0 to 2**64 - 1. Raises ``TypeError`` or ``ValueError`` otherwise."""
    seed = as_count("seed", value)
    if seed >= 2**64:
        raise OptionError("seed", seed, "does not fit in 64 bits", "give an int from 0 to 2**64 - 1")
    return seed


def as_number(
    name: str,
    value: float,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """A finite float, ``least`` ≤ value ≤ ``most`` and ``above`` < value < ``below``.

    Raises ``TypeError`` or ``ValueError`` otherwise.
    """
    bounds = {"above": above, "of at least": least, "below": below, "at most": most}
    told = [f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound)]
    give = f"a number {', '.join(told)}" if told else "a finite number"
    number = _number(name, value, give)
    # Written so that NaN fails too.
    if not (math.isfinite(number) and least <= number <= most and above < number < below):
        raise OptionError(name, value, "is out of range", f"give {give}")
    return number


def as_multiplier(value: float) -> float:
    """Images of a low step's batch over a full one's, from 1 to a million. Raises ``TypeError`` or ``ValueError``."""
    return as_number("batch_multiplier", value, least=1, most=1e6)


def as_probability(name: str, value: float) -> float:
    """A float in [0, 1]. Raises ``TypeError`` or ``ValueError`` otherwise."""
    return _from_0_to_1(name, value, "probability")


def as_share(name: str, value: float) -> float:
    """A float in [0, 1]. Raises ``TypeError`` or ``ValueError`` otherwise."""
    return _from_0_to_1(name, value, "share")


def as_flag(name: str, value: bool) -> bool:
    """``True`` or ``False``. Raises ``TypeError`` otherwise."""
    if not isinstance(value, bool):
        raise wrong_type(name, value, "True or False")
    return value


def as_choice(name: str, value: Choice, choices: Sequence[Choice], other: str = "") -> Choice:
    """One of ``choices``; ``other``: what may be given instead of them. Raises ``ValueError`` otherwise."""
    if value not in choices:
        allowed = any_of([*map(repr, choices), *filter(None, [other])])
        raise OptionError(name, value, "is unknown", f"give {allowed}")
    return value


def as_sequence(name: str, values: Iterable[Any], give: str) -> tuple[Any, ...]:
    """A tuple of the values of any iterable except text. Raises ``TypeError`` otherwise."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise OptionTypeError(name, values, "is not a sequence", f"give {give}")
    return tuple(values)


def check_names(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ``ValueError`` for the first of the ``given`` names that ``owner`` does not have, with near matches."""
    names = list(known)
    for name in given:
        if name not in names:
            raise ValueError(f"{owner} has no {name!r}; {near_matches_hint(name, names)}")


def _from_0_to_1(name: str, value: float, noun: str) -> float:
    give = "a number from 0 to 1"
    number = _number(name, value, give)
    if not 0.0 <= number <= 1.0:
        raise OptionError(name, value, f"is not a {noun}", f"give {give}")
    return number


def _number(name: str, value: float, give: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise wrong_type(name, value, give)
    return float(value)
