"""How messages and reports spell sizes and errors, and the names that a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence

#: How many names a hint holds, and how alike they must be, from 0 to 1: globs and paths share little with what they
#: were meant for.
_MOST, _ALIKE = 4, 0.3


def sides(sizes: Iterable[int]) -> str:
    """Sizes as a person writes them: ``3×3``."""
    return "×".join(map(str, sizes))


def first_line(error: Exception) -> str:
    """What an error complains of, in one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def one_line(error: BaseException) -> str:
    """All that an error says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def any_of(choices: Sequence[str]) -> str:
    """Choices as a person lists them: ``a, b or c``."""
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last


def near_matches(name: str, known: Iterable[str]) -> list[str]:
    """Up to four of the ``known`` names, each once, most like ``name`` first; none where no name is like it."""
    return difflib.get_close_matches(name, list(dict.fromkeys(known)), n=_MOST, cutoff=_ALIKE)


def near_matches_hint(name: str, known: Collection[str]) -> str:
    """``near matches: conv1, conv2 (of 20)``: the names most like ``name``, or the first ones where none is."""
    unique = list(dict.fromkeys(known))
    near = near_matches(name, unique) or unique[:_MOST]
    more = f" (of {len(unique)})" if len(unique) > len(near) else ""
    return f"near matches: {', '.join(near)}{more}"
