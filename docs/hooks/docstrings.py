"""Docstrings with paragraphs of the kind ``name: what it is``: those become the ``Args:`` of Google's style."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

_ITEM = re.compile(r"^(\w+(?:, \w+)*): ")


class ParameterParagraphs(griffe.Extension):
    """griffe's extension: each docstring is rewritten before it is parsed."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        _rewrite(func, {parameter.name for parameter in func.parameters})

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        made = cls.members.get("__init__")
        arguments = {parameter.name for parameter in made.parameters} if isinstance(made, griffe.Function) else set()
        _rewrite(cls, arguments | {name for name, member in cls.members.items() if member.is_attribute})


def _rewrite(described: griffe.Object, names: set[str]) -> None:
    if described.docstring is not None:
        described.docstring.value = with_arguments(described.docstring.value, names)


def with_arguments(text: str, names: set[str]) -> str:
    """The docstring with one ``Args:`` section for what it tells of ``names``, where the first of them stands.

    What it tells of several at once is told of each.
    """
    kept: list[str] = []
    section: list[str] = []
    place: int | None = None
    for item, block in _blocks(text.splitlines(), names):
        if not item:
            kept += block
            continue
        place = len(kept) if place is None else place
        for name in item:
            section += [f"    {name}: {block[0].partition(': ')[2]}", *(f"    {line}" for line in block[1:])]
    if place is None:
        return text
    return "\n".join([*kept[:place], "Args:", *section, "", *kept[place:]])


def _blocks(lines: list[str], names: set[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Lines that belong together: of parameters, which are named then, or of none."""
    section = False
    told: list[str] = []
    block: list[str] = []
    for line in lines:
        section = (section and (not line or line.startswith("    "))) or line == "Args:"
        plain = line.removeprefix("    ") if section else line
        item = _ITEM.match(plain)
        starts = item is not None and (section or set(item[1].split(", ")) <= names)
        if not starts and told and plain.startswith("    "):
            block.append(plain)
            continue
        if block:
            yield told, block
        told, block = (item[1].split(", ") if item and starts else []), ([] if line == "Args:" else [plain])
    if block:
        yield told, block
