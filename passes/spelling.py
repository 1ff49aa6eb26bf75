"""How messages spell an argument: ``ratio=2`` to who calls from Python, ``--ratio 2`` on a command line.

What a message says is decided where it is made; who reads it is known to whoever called. The command line sets its
spelling around a command, and every message that is made inside speaks its language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

#: Where an argument is named without a value.
NO_VALUE: Final = object()
#: ``spell(name, value)``: an argument as its reader gives it.
Spelling = Callable[[str, Any], str]


def as_argument(name: str, value: Any = NO_VALUE) -> str:
    """``ratio=2``, or ``ratio`` without a value: as a call in Python has it."""
    return name if value is NO_VALUE else f"{name}={value!r}"


_spelling: ContextVar[Spelling] = ContextVar("spelling", default=as_argument)


def setting(name: str, value: Any = NO_VALUE) -> str:
    """An argument by name, with its value if one is given, as the reader of a message spells it."""
    return _spelling.get()(name, value)


@contextmanager
def spelled(spelling: Spelling) -> Iterator[None]:
    """Inside, messages spell arguments so."""
    token = _spelling.set(spelling)
    try:
        yield
    finally:
        _spelling.reset(token)
