"""Whether anything has been written to containers: fast, for it is asked before every step."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import chain
from typing import Any

from passes.torch_internals import dict_version

_version = dict_version()


class Writes:
    """Notices writes to containers since the last ``forget``.

    Most containers are dictionaries, of which one number each tells it; others are compared, each entry by identity.
    """

    def __init__(self, containers: Iterable[Any]) -> None:
        given = list(containers)
        counted = [each for each in given if type(each) is dict and _version is not None]
        known = set(map(id, counted))
        self._dicts = counted
        # The order of an ``OrderedDict`` counts too.
        self._others = [
            part
            for each in given
            if id(each) not in known
            for part in ((each.keys(), each.values()) if isinstance(each, dict) else (each,))
        ]
        self.forget()

    def any(self) -> bool:
        """Whether there were any; also where a dictionary got the value that it had."""
        if self._read_versions() != self._versions:
            return True
        now = self._read_others()
        return len(now) != len(self._entries) or not all(map(operator.is_, now, self._entries))

    def forget(self) -> None:
        """Count from here."""
        self._versions, self._entries = self._read_versions(), self._read_others()

    def _read_versions(self) -> list[int]:
        return [] if _version is None else list(map(_version, self._dicts))

    def _read_others(self) -> list[Any]:
        return list(chain.from_iterable(self._others))
