"""Optional packages, each needed by one integration only."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(module: str, extra: str) -> ModuleType:
    """Import a module. Raises ``ImportError`` that names the extra if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(str(error.name)):
            raise  # a dependency of the package is missing
        package = module.partition(".")[0]
        raise ImportError(
            f"{package} is not installed, but lowmode_fx.integrations.{extra} needs it; pip install "
            f"'lowmode-fx[{extra}]'",
            name=package,
        ) from error
