"""What code reads by name, besides its arguments: globals, and attributes of classes and of modules of Python."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

#: Compared by value, unlike other objects.
PLAIN = (bool, int, float, complex, str, bytes, tuple, torch.dtype, torch.device, torch.Size)
#: Packages whose constants nobody sets during a training.
_LEFT = sys.stdlib_module_names | {"torch", "torchvision", "numpy", "lowmode_fx", "passes"}
#: A namespace and a name in it.
NamedPlace = tuple[Mapping[str, Any], str]


class NamedReads:
    """The places that functions and the forwards of modules read, and the functions that these call by name.

    ``places``: of plain values and of ``objects``, whose contents count too. Functions of torch and of the standard
    library are left out, and so is what is found by ``getattr`` or in a slot.
    """

    def __init__(self, functions: Iterable[FunctionType], modules: Iterable[nn.Module]) -> None:
        self.places: list[NamedPlace] = []
        self.objects: list[Any] = []
        self._seen: set[Any] = set()
        self._pending: list[tuple[FunctionType, type | None]] = [(each, None) for each in functions]
        kinds: Iterable[type[nn.Module]] = dict.fromkeys(map(type, modules))
        for kind in kinds:
            if _is_read(kind):
                self._pending.append((kind.forward, kind))  # type: ignore[arg-type]
        while self._pending:
            self._visit(*self._pending.pop())

    def _visit(self, function: FunctionType, owner: type | None) -> None:
        if not isinstance(function, FunctionType) or (function.__code__, owner) in self._seen:
            return
        self._seen.add((function.__code__, owner))
        names = list(_names(function.__code__))
        for name in names:
            self._look(function.__globals__, name, names, None)
            for kind in () if owner is None else owner.__mro__:
                if _is_read(kind):
                    self._look(vars(kind), name, names, owner)

    def _look(self, namespace: Mapping[str, Any], name: str, names: list[str], owner: type | None) -> None:
        if name not in namespace:
            return
        value = namespace[name]
        if isinstance(value, property | staticmethod | classmethod):
            value = value.fget if isinstance(value, property) else value.__func__
        if isinstance(value, FunctionType):
            if _is_read(value):
                self._pending.append((value, owner))
        elif isinstance(value, type | ModuleType):
            inner = vars(value)
            if _is_read(value) and (id(value), name) not in self._seen:
                self._seen.add((id(value), name))
                for each in names:
                    self._look(inner, each, names, value if isinstance(value, type) else None)
        elif (owner or id(namespace), name) not in self._seen:
            self._seen.add((owner or id(namespace), name))
            self.places.append((namespace, name))
            if not isinstance(value, PLAIN):
                self.objects.append(value)


def _names(code: CodeType) -> Iterator[str]:
    """The names of globals and attributes in some code, and in that of functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_read(value: Any) -> bool:
    """Whether a function, class or module of Python may hold what a training changes."""
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return isinstance(home, str) and home.partition(".")[0] not in _LEFT
