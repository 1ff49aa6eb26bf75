"""A package's public names, each imported on first use, so that code without torch does not wait for it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package that knows the modules of its public names (``_homes``) and imports one when a name is used.

    A public name may also be a submodule's: it then means the public object, however the submodule was imported.
    """

    _homes: Mapping[str, str]
    _first: str

    def __getattr__(self, name: str) -> Any:
        if name in ("_homes", "_first") or name not in self._homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if self._first and not name.startswith("_"):  # __version__ waits for nothing
            importlib.import_module(self._first)
        value = getattr(importlib.import_module(self._homes[name]), name)
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system sets each submodule as an attribute of the package.
        if not (isinstance(value, ModuleType) and name in self._homes):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._homes})


def import_lazily(package: str, homes: Mapping[str, Iterable[str]], first: str = "") -> None:
    """Let a package import its public names on first use. ``homes``: modules, each with its names.

    ``first``: a module to import before any of them, for its side effects. Type checkers read the same imports under
    ``if TYPE_CHECKING``.
    """
    module = sys.modules[package]
    vars(module)["_homes"] = {name: home for home, names in homes.items() for name in names}
    vars(module)["_first"] = first
    module.__class__ = LazyPackage
