"""Makes sure that the top-level package ``passes`` is this project's, and not another module of that name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

__all__ = ["import_lazily"]

ROOT = Path(__file__).parents[2]


def _another() -> ImportError:
    """The error to raise: where the other module is, and what to do."""
    found = sys.modules.get("passes")
    if found is None:
        return ImportError(
            f"the package passes, which belongs to lowmode_fx, is missing from {ROOT}; reinstall lowmode_fx"
        )
    lies = getattr(found, "__file__", None) or next(iter(getattr(found, "__path__", ())), "memory")
    return ImportError(
        f"another module named passes was found: {lies}; rename it, or put {ROOT}, where lowmode_fx has its own, "
        "before it on sys.path",
        name="passes",
    )


try:
    _passes = importlib.import_module("passes")
    from passes.lazy import LazyPackage, import_lazily
except ImportError as error:
    if not (error.name or "passes").startswith("passes"):
        raise  # a dependency of ours is missing
    raise _another() from error
if not isinstance(_passes, LazyPackage):
    raise _another()
