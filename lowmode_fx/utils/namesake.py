"""Another top-level module named ``passes``, found in the place of the one that ``lowmode_fx`` is made with."""

from __future__ import annotations

import importlib
from pathlib import Path


def another_passes(error: ImportError) -> ImportError:
    """What to raise where ``passes`` can't be imported as ours: where the other one lies, and what to do.

    Args:
        error: what the import raised.
    """
    ours = Path(__file__).parents[2]
    try:
        found = importlib.import_module("passes")
    except ImportError:
        if error.name == "passes":
            return ImportError(f"the package passes, which belongs to lowmode_fx, is missing from {ours}; install again")
        return error  # something that ours or theirs lacks
    lies = found.__file__ or next(iter(found.__path__), "memory")
    if Path(lies).parent == ours / "passes":
        return error
    return ImportError(
        f"another module named passes was found: {lies}; rename it, or put {ours}, where lowmode_fx has its own, before "
        "it on sys.path",
        name="passes",
        path=found.__file__,
    )
