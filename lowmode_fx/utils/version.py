"""The version of this code: a clone's own, or that of the package that is installed."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

PACKAGE = "lowmode-fx"
#: The folder of the packages; of a clone, the one with its ``pyproject.toml``.
ROOT = Path(__file__).parents[2]


def read_version(root: Path = ROOT) -> str:
    """The version in the ``pyproject.toml`` of ``root``, or without one that of the installed package.

    The file comes first: where a clone runs, another version may be installed. ``0+unknown`` for packages that were
    copied without either.
    """
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == PACKAGE:
            return str(project["version"])
    except (OSError, ValueError, KeyError, TypeError):  # a folder of packages, whose file, if any, is another project's
        pass
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "0+unknown"


__version__ = read_version()
