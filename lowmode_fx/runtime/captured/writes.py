"""Whether anything has been written to containers: fast, for it is asked before every step."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from passes.torch_internals import dict_version, unwritten

#: Questions in a row without a write, after which the quickest answer, which takes time to prepare, is prepared.
QUIET = 100

_version = dict_version()


class Writes:
    """Notices writes to containers since the last ``forget``.

    Most containers are dictionaries, of which one number each tells it; others are compared, each entry by identity.
    """

    def __init__(self, containers: Iterable[Any]) -> None:
        given = list(containers)
        # The order of an ``OrderedDict`` counts too.
        counted = [
            _version is not None and isinstance(each, dict) and not isinstance(each, OrderedDict) for each in given
        ]
        self._dicts = [each for each, is_counted in zip(given, counted, strict=True) if is_counted]
        self._others = [
            part
            for each, is_counted in zip(given, counted, strict=True)
            if not is_counted
            for part in ((each.keys(), each.values()) if isinstance(each, dict) else (each,))
        ]
        self.forget()

    def any(self) -> bool:
        """Whether there were any; also where a dictionary got the value that it had."""
        if self._unwritten is not None:
            if not self._unwritten():
                return True
        elif self._was_written():
            return True
        if self._read_lengths() != self._lengths:
            return True
        now = self._read_others()
        return len(now) != len(self._entries) or not all(map(operator.is_, now, self._entries))

    def forget(self) -> None:
        """Count from here."""
        self._versions, self._entries = self._read_versions(), self._read_others()
        self._lengths = self._read_lengths()
        self._unwritten: Callable[[], bool] | None = None
        self._quiet = 0

    def _was_written(self) -> bool:
        self._quiet += 1
        prepared = unwritten(self._dicts) if self._quiet == QUIET else None
        if self._read_versions() != self._versions:
            return True
        self._unwritten = prepared
        return False

    def _read_versions(self) -> list[int]:
        return [] if _version is None else list(map(_version, self._dicts))

    def _read_others(self) -> list[Any]:
        return list(chain.from_iterable(self._others))

    def _read_lengths(self) -> list[int]:
        """An entry may move from the end of one list to the start of the next."""
        return list(map(len, self._others))
