"""What a command left: for tests that call ``lowmode-fx`` as its user does."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    """The exit status, and what was printed on standard output and standard error."""

    status: int
    out: str
    error: str


Run = Callable[..., Outcome]
