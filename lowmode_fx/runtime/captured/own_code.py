"""Whose code it is: torch's and the like, which reads nothing that a training changes, a package's, or the user's."""

from __future__ import annotations

import functools
import sys
from functools import lru_cache
from pathlib import Path
from types import MethodType
from typing import Any

from passes.preserve.holdings import CLOSED

#: Packages whose code reads nothing that a training changes.
_LEFT = CLOSED | {"torchvision", "lowmode_fx", "passes"}


def is_left(name: Any) -> bool:
    """Whether code of a module of Python, by its name, is left out."""
    return not isinstance(name, str) or name.partition(".")[0] in _LEFT


@lru_cache(maxsize=4096)
def is_installed(name: str) -> bool:
    """Whether a module of Python is one of an installed package, and not of the user's own code."""
    parts = Path(getattr(sys.modules.get(name), "__file__", None) or "").parts
    return bool({"site-packages", "dist-packages"}.intersection(parts))


def is_read(kind: Any) -> bool:
    """Whether a class may hold what a training changes."""
    return not is_left(getattr(kind, "__module__", None))


def unwrapped(value: Any) -> Any:
    """What a method, a property or a partial function calls; anything else itself."""
    while True:
        if isinstance(value, property | functools.cached_property):
            value = value.fget if isinstance(value, property) else value.func
        elif isinstance(value, staticmethod | classmethod | MethodType):
            value = value.__func__
        elif isinstance(value, functools.partial):
            value = value.func
        else:
            return value
