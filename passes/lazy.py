"""A package's public names, each imported where it is first asked for: what needs no torch doesn't wait for it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package that knows where its public names live (``_homes``), a name's module being imported with its first use.

    A public name may be a submodule's too: it then means what is public, however the submodule came to be imported.
    """

    _homes: Mapping[str, str]
    _first: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if self._first:
            importlib.import_module(self._first)
        value = getattr(importlib.import_module(self._homes[name]), name)
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds each submodule to its name in the package.
        if not (isinstance(value, ModuleType) and name in self._homes):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._homes})


def import_lazily(package: str, homes: Mapping[str, Iterable[str]], first: str = "") -> None:
    """Let a package import its public names where they are used. homes: modules, each with the names that live there.

    first: a module that is imported before any of them, for what its import does.

    Type checkers read the same imports under ``if TYPE_CHECKING``.
    """
    module = sys.modules[package]
    vars(module)["_homes"] = {name: home for home, names in homes.items() for name in names}
    vars(module)["_first"] = first
    module.__class__ = LazyPackage
