"""Ratios of low-mode in one exact form: any number ≥ 1, for all sides or per side.

The ratio of one side is a fraction p / q in lowest terms, with q up to 100. Computations use p and q as plain ints,
never a ``Fraction``: that code also runs inside compiled steps, and dynamo only traces ints.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from passes.errors import OptionError, OptionTypeError
from passes.spelling import written
from passes.wording import any_of

#: Forms of the ratio of one side: ``2``, ``4 / 3``, ``Fraction(4, 3)``, ``"4/3"``, ``"1.5"``.
SideRatio = int | float | Fraction | str
#: Forms of a ratio: one for all sides, or one per side. As text: ``"4/3"``, ``"1x4/3"``.
RatioLike = SideRatio | Sequence[SideRatio]
#: The normal form. A ``Fraction`` in it is never whole; a tuple holds one ratio per side.
Ratio = int | Fraction | tuple[int | Fraction, ...]
#: The form for JSON, generated code and other processes: ``2``, ``"4/3"``, ``(1, "4/3")``.
PlainRatio = int | str | tuple[int | str, ...]

_LARGEST_DENOMINATOR = 100


def read_ratio(value: RatioLike, name: str = "ratio") -> Ratio:
    """The normal form of a ratio: ``2.0 → 2``, ``4 / 3 → Fraction(4, 3)``, ``"1x4/3" → (1, Fraction(4, 3))``.

    A float, and a fraction written as text, stand for the fraction of smallest denominator that equals them to nine
    digits.

    Raises ``TypeError`` for a value that is not a number, text, list or tuple, and ``ValueError`` for a number below 1,
    or one that is not a fraction with a denominator of up to 100. ``name``: of the option, for messages.
    """
    sides = _one_a_side(value)
    if sides is None:
        return _exact(value, name)
    if not sides:
        raise OptionError(name, value, "is empty", _allowed(name))
    return tuple(_exact(side, name) for side in sides)


def plain_ratio(ratio: RatioLike) -> PlainRatio:
    """The ratio for JSON and generated code: an int, text, or a tuple of these. ``read_ratio`` reads it."""
    exact = read_ratio(ratio)
    if isinstance(exact, tuple):
        return tuple(side if isinstance(side, int) else str(side) for side in exact)
    return exact if isinstance(exact, int) else str(exact)


def ratio_text(ratio: RatioLike) -> str:
    """The ratio in words: ``"2"``, ``"4/3"``, ``"1×4/3"``."""
    exact = read_ratio(ratio)
    return "×".join(map(str, exact)) if isinstance(exact, tuple) else str(exact)


def largest_ratio(ratio: RatioLike) -> int | Fraction:
    """The largest ratio of the sides; 1 if nothing changes."""
    exact = read_ratio(ratio)
    return max(exact) if isinstance(exact, tuple) else exact


def side_ratios(ratio: RatioLike, count: int, name: str = "ratio") -> tuple[SideRatio, ...]:
    """The ratio of each of ``count`` sides. Raises ``ValueError`` if it is for another number of sides."""
    sides = _one_a_side(ratio)
    if sides is None:
        return (ratio,) * count  # type: ignore[return-value]
    if len(sides) != count:
        there = f"{'is' if count == 1 else 'are'} {count}"
        problem = f"has {len(sides)} sides, but there {there}"
        raise OptionError(name, ratio, problem, "give one for all sides, or one per side")
    return sides


def divides(ratio: RatioLike, sides: Sequence[int]) -> bool:
    """Whether every side is a multiple of its ratio."""
    terms = map(ratio_terms, side_ratios(ratio, len(sides)))
    return all(side * q % p == 0 for (p, q), side in zip(terms, sides, strict=True))


def ratio_terms(ratio: SideRatio, name: str = "ratio") -> tuple[int, int]:
    """``(p, q)`` of one side's ratio p / q, in lowest terms. Raises as ``read_ratio`` does."""
    number = _number(ratio, name)
    if not 1 <= number < float("inf"):
        raise OptionError(name, ratio, "is out of range", _allowed(name))
    if isinstance(number, int):
        return number, 1
    if isinstance(number, Fraction):
        if number.denominator <= _LARGEST_DENOMINATOR:
            return number.numerator, number.denominator
    else:
        for denominator in range(1, _LARGEST_DENOMINATOR + 1):
            numerator = round(number * denominator)
            if abs(numerator - number * denominator) <= 1e-9 * numerator:
                return numerator, denominator
    near = nearest_ratio(number)
    raise OptionError(
        name,
        ratio,
        f"is not a fraction with a denominator of up to {_LARGEST_DENOMINATOR}",
        f"give the nearest, {written(name, str(near))}, or another",
    )


def nearest_ratio(numerator: int | float | Fraction, denominator: int = 1) -> Fraction:
    """The valid ratio nearest to ``numerator / denominator``."""
    return (Fraction(numerator) / denominator).limit_denominator(_LARGEST_DENOMINATOR)


def largest_ratio_within(limit: Fraction) -> Fraction:
    """The largest valid ratio that is at least 1 and at most ``limit``."""
    numerator, denominator = limit.as_integer_ratio()
    return max(Fraction(numerator * q // denominator, q) for q in range(1, _LARGEST_DENOMINATOR + 1))


def _allowed(name: str) -> str:
    forms = any_of([*dict.fromkeys(["2", "4/3", written(name, "4/3")])])
    return f"give a number of at least 1, as {forms}, or one per side, as {written(name, (1, 2))}"


def _number(ratio: SideRatio, name: str) -> int | float | Fraction:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float | Fraction | str):
        raise OptionTypeError(name, ratio, f"is of type {type(ratio).__name__}", _allowed(name))
    if not isinstance(ratio, str):
        return ratio
    numerator, _, denominator = ratio.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise OptionError(name, ratio, "is not a ratio", _allowed(name)) from None


def _exact(side: SideRatio | Sequence[SideRatio], name: str) -> int | Fraction:
    numerator, denominator = ratio_terms(side, name)  # type: ignore[arg-type]
    return numerator if denominator == 1 else Fraction(numerator, denominator)


def _one_a_side(ratio: RatioLike) -> tuple[SideRatio, ...] | None:
    """One ratio per side, or ``None`` for a ratio for all sides."""
    if isinstance(ratio, str):
        parts = ratio.replace("×", "x").split("x")
        return tuple(parts) if len(parts) > 1 and all(parts) else None
    return tuple(ratio) if isinstance(ratio, list | tuple) else None
