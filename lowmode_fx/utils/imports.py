"""Import a user's object by ``package.module:name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from lowmode_fx.utils.user_code import told


def import_named(spec: str, what: str) -> Any:
    """The object that ``package.module:name`` names, also from a module in the working directory.

    ``what``: its name in messages. Raises ``ValueError`` if it can't be imported.
    """
    module_name, _, attribute = spec.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # user code may raise anything
        raise ValueError(f"{what} {spec} can't be imported ({told(error)}); give package.module:callable") from error
    except SystemExit as error:
        raise ValueError(
            f"{what} {spec} can't be imported: its module calls sys.exit; give package.module:callable"
        ) from error
    return found
