"""Files that a command is asked to write: whether it can is known before it works for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from passes.errors import OptionError
from passes.wording import any_of

#: Endings of the pictures that ``draw`` makes.
PICTURES = (".svg", ".png", ".pdf")


def as_path(text: str | Path) -> Path:
    """A path as it is typed, ``~`` being the user's own folder. Raises ``ValueError`` for none."""
    if isinstance(text, str) and not text.strip():
        raise ValueError("a path is empty; give one, or leave the option out")
    return Path(text).expanduser()


def check_output(path: Path, endings: Sequence[str] = (), what: str = "file") -> None:
    """Raises ``OptionError`` where no such file can be written: another ending, a folder, a place that can't be."""
    if endings and path.suffix.lower() not in endings:
        raise OptionError("out", str(path), f"is no {what}", f"give a name that ends in {any_of(endings)}")
    if path.is_dir():
        raise OptionError("out", str(path), "is a folder", f"give a {what}'s name in it")
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir():
        raise OptionError("out", str(path), f"can't be written: {str(existing)!r} is no folder", "give another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OptionError("out", str(path), f"can't be written in {str(existing)!r}", "give another path")
