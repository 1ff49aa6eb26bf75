"""Packages of the extra ``zoo``, which few need."""

from __future__ import annotations

import importlib
from types import ModuleType


def imported(package: str) -> ModuleType:
    """The package. Raises ``ValueError`` with what to install where it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed; pip install 'lowmode-fx[zoo]' brings it") from error
