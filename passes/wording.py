"""How messages and reports write sizes and errors, and near matches of names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence

#: Number of names in a hint, and their least similarity, from 0 to 1: globs and paths share little with the names
#: that they were meant for.
_MOST, _ALIKE = 4, 0.3


def sides(sizes: Iterable[int]) -> str:
    """Sizes in words: ``3×3``."""
    return "×".join(map(str, sizes))


def first_line(error: Exception) -> str:
    """The first line of an error's message; its type if there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def one_line(error: BaseException) -> str:
    """An error's message in one line; its type if there is none."""
    return " ".join(str(error).split()) or type(error).__name__


def short(value: object) -> str:
    """A value as Python writes it, cut at 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def any_of(choices: Sequence[str]) -> str:
    """A list of choices in words: ``a, b or c``."""
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last


def near_matches(name: str, known: Iterable[str]) -> list[str]:
    """Up to four of the ``known`` names, without duplicates, most similar first; empty if none is similar."""
    return difflib.get_close_matches(name, list(dict.fromkeys(known)), n=_MOST, cutoff=_ALIKE)


def near_matches_hint(name: str, known: Collection[str]) -> str:
    """``near matches: conv1, conv2 (of 20)``: the most similar names, or the first ones if none is similar."""
    unique = list(dict.fromkeys(known))
    near = near_matches(name, unique) or unique[:_MOST]
    more = f" (of {len(unique)})" if len(unique) > len(near) else ""
    return f"near matches: {', '.join(near)}{more}"
