"""Packages of the extra ``zoo``."""

from __future__ import annotations

import importlib
from types import ModuleType


def imported(package: str) -> ModuleType:
    """Import the package. Raises ``ValueError`` with what to install if it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed; run pip install 'lowmode-fx[zoo]'") from error
