"""Where something is found: its path from the model or the criterion, and the line of code that draws on the host."""

from __future__ import annotations

import dis
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from lowmode_fx.runtime.captured.own_code import is_read
from passes.preserve.containers import cell_contents
from passes.preserve.holdings import OPENED

#: Objects that are looked at for a path.
_MOST_VISITED = 50_000
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")


def path_of(roots: Mapping[str, Any], target: Any) -> str | None:
    """The shortest path of an object, as ``model.options``; ``None`` if it is not found."""
    return next((path for path, value in _walk(roots) if value is target), None)


def entry_of(roots: Mapping[str, Any], container: Any, key: Any) -> str | None:
    """The shortest path of a container's entry, as ``model.options['scale']``, or of an object's attribute."""
    for path, value in _walk(roots):
        if value is container:
            return f"{path}[{key!r}]"
        if getattr(value, "__dict__", None) is container:
            return f"{path}.{key}"
    return None


def drawing_line(functions: Iterable[FunctionType]) -> str | None:
    """The first function that names Python's or numpy's random numbers, and the line, as far as its code tells."""
    for function in functions:
        for code, line in _drawing(function.__code__, function.__globals__):
            return f"{function.__qualname__}, {code.co_filename}:{line}"
    return None


def _walk(roots: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    pending, seen = deque(roots.items()), set[int]()
    while pending and len(seen) < _MOST_VISITED:
        path, value = pending.popleft()
        if id(value) not in seen:
            seen.add(id(value))
            yield path, value
            pending.extend(_inside(path, value))


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor | str | bytes | type):
        return
    if isinstance(value, dict):
        yield from ((f"{path}[{key!r}]", each) for key, each in list(value.items()))
    elif isinstance(value, list | tuple | deque):
        yield from ((f"{path}[{place}]", each) for place, each in enumerate(list(value)))
    elif isinstance(value, MethodType):
        yield path, value.__self__
    elif isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield from ((name, each) for each in cell_contents(cell))
    elif isinstance(value, nn.Module):
        yield from ((f"{path}.{name}", child) for name, child in value.named_children())
        yield from ((f"{path}.{name}", each) for name, each in vars(value).items() if name != "_modules")
    elif is_read(type(value)) or type(value) in OPENED:
        yield from ((f"{path}.{name}", each) for name, each in getattr(value, "__dict__", {}).items())


def _drawing(code: CodeType, names: Mapping[str, Any]) -> Iterator[tuple[CodeType, int]]:
    before: Any = None
    for instruction in dis.get_instructions(code):
        named = names.get(instruction.argval) if instruction.opname in _GLOBAL else None
        inside = getattr(before, str(instruction.argval), None) if isinstance(before, ModuleType) else None
        if _draws(named) or _draws(inside):
            place = instruction.positions
            yield code, (place.lineno if place is not None else None) or code.co_firstlineno
        before = named
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _drawing(constant, names)


def _draws(value: Any) -> bool:
    """Whether it is a module of random numbers, or a function of one that draws from its own generator."""
    modules = [each for each in (random, sys.modules.get("numpy.random")) if each is not None]
    if any(value is each for each in modules):
        return True
    owner = getattr(value, "__self__", None)
    return owner is not None and any(owner is getattr(each.random, "__self__", None) for each in modules)
