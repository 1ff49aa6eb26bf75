"""Packages that an adapter is for, and that nothing else of the project needs."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(module: str, extra: str) -> ModuleType:
    """The module. Raises ``ImportError`` that names the extra where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(str(error.name)):
            raise  # something that the package itself lacks
        package = module.partition(".")[0]
        raise ImportError(
            f"{package} is not installed, and lowmode_fx.integrations.{extra} is for it; pip install "
            f"'lowmode-fx[{extra}]'",
            name=package,
        ) from error
