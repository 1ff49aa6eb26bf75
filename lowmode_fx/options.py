"""Command-line options that several commands share: how text becomes sizes, names and a ``LowModeConfig``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .config import LowModeConfig


def image_sides(text: str) -> tuple[int, int]:
    """``"224"`` or ``"192x256"`` (height × width), in pixels. Raises ``ValueError`` for anything else."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"input size {text!r} is no size; give pixels, as 224, or height and width, as 192x256")
    return int(parts[0]), int(parts[-1])


def names_or_set(text: str | None, named: Sequence[str]) -> Any:
    """A named set as it is, or a comma list of globs as a tuple; ``None`` stays ``None``."""
    if text is None or text in named:
        return text
    return tuple(part.strip() for part in text.split(",") if part.strip())


#: Options that take a named set or globs, with the sets.
_NAMED_SETS = {"pool_convs": ("dense", "all"), "keep_convs": (), "drop_maxpools": ("none", "stem", "all")}


def low_mode_config(base: LowModeConfig, **options: Any) -> LowModeConfig:
    """``base`` with every option that was given (is not ``None``), globs as the command line spells them.

    Raises ``ValueError`` for what is not allowed.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name, named in _NAMED_SETS.items():
        if isinstance(given.get(name), str):
            given[name] = names_or_set(given[name], named)
    return replace(base, **given)
