"""How messages write an argument: ``ratio=2`` for Python, ``--ratio 2`` for a command line.

The code that raises a message does not know who reads it. The command line sets its spelling around a command, and
every message inside uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

#: The value of an argument that is named without one.
NO_VALUE: Final = object()
#: ``spell(name, value)``: an argument as its reader writes it.
Spelling = Callable[[str, Any], str]


def as_argument(name: str, value: Any = NO_VALUE) -> str:
    """``ratio=2``, or ``ratio`` without a value, as in a Python call."""
    return name if value is NO_VALUE else f"{name}={value!r}"


_spelling: ContextVar[Spelling] = ContextVar("spelling", default=as_argument)


def setting(name: str, value: Any = NO_VALUE) -> str:
    """An argument by name, with its value if one is given, as the reader of a message writes it."""
    return _spelling.get()(name, value)


def written(name: str, value: Any) -> str:
    """The value of an argument alone, as the reader of a message writes it: ``'4/3'``, or ``4/3``."""
    return setting(name, value).removeprefix(setting(name)).lstrip("= ")


def as_keyword(name: str) -> str:
    """An argument as it is given, without its value: ``submodule=``, or ``--submodule``."""
    return setting(name) if is_option(name) else f"{name}="


def in_command() -> bool:
    """Whether messages are read by the user of a command, who gives options and no values of Python's."""
    return current_spelling() is not as_argument


def is_option(name: str) -> bool:
    """Whether the reader of a message gives an argument as an option of a command."""
    return setting(name) != name


def current_spelling() -> Spelling:
    """The spelling of the messages here, for what goes on in another process."""
    return _spelling.get()


@contextmanager
def spelled(spelling: Spelling) -> Iterator[None]:
    """Inside, messages write arguments with ``spelling``."""
    token = _spelling.set(spelling)
    try:
        yield
    finally:
        _spelling.reset(token)
