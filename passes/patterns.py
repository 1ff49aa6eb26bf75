"""Patterns for names of sites: globs over module names, each of which must match something."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from passes.errors import PassError
from passes.spelling import setting
from passes.wording import near_matches_hint


def matches(name: str, pattern: str) -> bool:
    """Whether the glob matches this site or a module above it: ``layer4`` stands for all of ``layer4.*``."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def select_names(names: Sequence[str], patterns: Iterable[str], argument: str, kind: str) -> set[str]:
    """The ``names`` that any of ``patterns`` matches.

    Raises ``PassError`` for a pattern that matches nothing, with near matches.
    """
    selected: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if matches(name, pattern)}
        if not found:
            raise PassError(_no_match(names, pattern, argument, kind))
        selected |= found
    return selected


def _no_match(names: Sequence[str], pattern: str, argument: str, kind: str) -> str:
    if not names:
        return f"{setting(argument)}: {pattern!r} matches nothing: this model has no {kind}; leave it out"
    return f"{setting(argument)}: {pattern!r} matches no {kind}; {near_matches_hint(pattern, names)}"
