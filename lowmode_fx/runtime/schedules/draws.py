"""A counter-based random number generator without state: SplitMix64 of a seed and a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["GOLDEN_GAMMA", "WORD", "mix64", "uniform_draw"]

Word = TypeVar("Word", int, "npt.NDArray[Any]")

WORD = 2**64 - 1
#: SplitMix64's increment, 2**64 over the golden ratio, made odd.
GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def mix64(word: Word) -> Word:
    """SplitMix64's finaliser: a bijection of 64-bit words in which each input bit flips about half of the output bits.

    It takes one word, or an array of words.
    """
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    word = word ^ (word >> 31)
    return word


def uniform_draw(seed: int, step: int) -> float:
    """The draw of step ``step`` (at least 0) under ``seed`` (0 to 2**64 - 1): uniform in [0, 1), a multiple of 2**-53.

    It is a counter-based generator: the value depends only on the two integers, by integer arithmetic that gives the
    same on every machine and every version of Python.
    """
    # The seed is mixed before the step is added; otherwise seed + 1 would give seed's stream shifted by one step.
    key = mix64((seed + GOLDEN_GAMMA) & WORD)
    return (mix64((key + step * GOLDEN_GAMMA) & WORD) >> 11) * 2.0**-53
