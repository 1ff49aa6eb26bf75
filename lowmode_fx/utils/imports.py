"""Objects of a user's own, by ``package.module:name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from lowmode_fx.utils.user_code import told


def import_named(spec: str, what: str) -> Any:
    """The object that ``package.module:name`` names, also of a module in the working folder.

    what: how messages call it. Raises ``ValueError`` for one that can't be imported.
    """
    module_name, _, attribute = spec.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever stands in the module
        raise ValueError(f"{what} {spec} can't be imported ({told(error)}); give package.module:callable") from error
    except SystemExit as error:
        raise ValueError(f"{what} {spec} can't be imported: its module ends the program; mend it") from error
    return found
