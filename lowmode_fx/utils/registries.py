"""Names that a package registers, read off its files: importing it takes seconds."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

#: Where a registered name can come from, whatever the registry: functions, and all that is quoted.
_SPELLED = re.compile(r"\bdef (\w+)\(|[\"'](\w+)[\"']")


@cache
def names_in(package: str, folder: str, registered: str) -> tuple[list[str], frozenset[str]]:
    """The names that the files in a package's folder register, and every name that they define or quote.

    A name that isn't among the latter is in no registry; one that is, may be in none. registered: a pattern of several
    lines, with the name as its group. Nothing is imported; both are empty where there are no such files.
    """
    text = _text(package, folder)
    spelled = frozenset(name for found in _SPELLED.findall(text) for name in found if name)
    return sorted(set(re.findall(registered, text, re.MULTILINE))), spelled


def _text(package: str, folder: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    files = sorted((Path(spec.origin).parent / folder).rglob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
