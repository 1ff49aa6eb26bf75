"""The names in compiled code of Python: of globals, and of attributes, with strings that may name some."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType


@lru_cache(maxsize=4096)
def global_names(code: CodeType) -> frozenset[str]:
    """The names of globals that some code reads, and that the code of functions inside it reads."""
    return frozenset(
        instruction.argval
        for each in _with_inner(code)
        for instruction in dis.get_instructions(each)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    )


@lru_cache(maxsize=4096)
def other_names(code: CodeType) -> frozenset[str]:
    """The names of attributes that some code may read, as in ``each.name``, ``getattr(each, "name")``, ``["name"]``."""
    found: set[str] = set()
    for each in _with_inner(code):
        found |= {*each.co_names, *(text for text in _texts(each.co_consts) if text.isidentifier())}
    return frozenset(found)


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _texts(constants: tuple[object, ...]) -> Iterator[str]:
    for each in constants:
        if isinstance(each, str):
            yield each
        elif isinstance(each, tuple):
            yield from _texts(each)
