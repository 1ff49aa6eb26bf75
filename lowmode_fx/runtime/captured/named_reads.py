"""What code reads by name: globals, attributes of classes and of modules of Python, options in nested objects."""

from __future__ import annotations

import enum
import functools
from collections import deque
from collections.abc import Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lowmode_fx.runtime.captured.code_names import global_names, other_names
from lowmode_fx.runtime.captured.own_code import is_installed, is_left, is_read, unwrapped
from passes.preserve.containers import cell_contents
from passes.preserve.holdings import OPENED, Holdings

#: Compared by value, unlike other objects.
PLAIN = (bool, int, float, complex, str, bytes, tuple, torch.dtype, torch.device, torch.Size)
#: Held as a whole.
_HELD = (Tensor, nn.Module, dict, list, set, deque, torch.Generator)
#: Methods that are called without their name.
_UNNAMED = frozenset({"__init__", "__call__", "__getattr__", "forward", "backward", "setup_context"})
#: A namespace and a name in it.
NamedPlace = tuple[Mapping[str, Any], str]


class NamedReads:
    """The places that functions, and the methods that they may call, read by name.

    ``places``: of values that are watched one by one. ``objects``: containers and the like among them, whose contents
    count too. Names are followed wherever they may lead: an attribute that some of the code reads is watched in all
    objects within reach. Functions of torch and of the standard library are left out, and so are globals and class
    attributes of installed packages.
    """

    def __init__(self, held: Holdings) -> None:
        """``held``: what the code's modules and functions hold, which is watched already."""
        self.places: list[NamedPlace] = []
        self.objects: list[Any] = []
        #: Functions whose code was read.
        self.functions: list[FunctionType] = []
        self._known = set(map(id, held.containers))
        self._placed: set[tuple[int, str]] = set()
        self._seen: set[Any] = set()
        self._names: set[str] = set(_UNNAMED)
        #: Classes, and whether the code may make instances of them.
        self._kinds: dict[type, bool] = {}
        self._kinds.update((kind, False) for kind in map(type, (*held.modules, *held.objects)) if is_read(kind))
        self._namespaces: dict[int, Mapping[str, Any]] = {id(vars(each)): vars(each) for each in held.objects}
        self._functions: list[FunctionType] = []
        for function in held.functions:
            self._follow(function)
        size = None
        while size != (size := self._size()):
            while self._functions:
                self._read(self._functions.pop())
            for kind in list(self._kinds):
                self._read_class(kind)
            for namespace in list(self._namespaces.values()):
                for name in self._names.intersection(namespace):
                    self._look(namespace, name)

    def _size(self) -> tuple[int, ...]:
        """It grows with what there is to look for, and where."""
        return (len(self._seen), len(self._names), sum(self._kinds.values()), len(self._kinds), len(self._namespaces))

    def _follow(self, value: Any) -> None:
        """Read the code of a function, and of those that it wraps."""
        value = unwrapped(value)
        if isinstance(value, FunctionType) and ("code", id(value)) not in self._seen:
            self._seen.add(("code", id(value)))
            self._functions.append(value)

    def _read(self, function: FunctionType) -> None:
        self._follow(getattr(function, "__wrapped__", None))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            # ``super()`` needs the class, and makes no instance of it.
            for value in cell_contents(cell) if name != "__class__" else ():
                self._take(value)
        home = function.__globals__.get("__name__")
        if is_left(home):
            return
        self.functions.append(function)
        self._names |= other_names(function.__code__)
        if is_installed(home):
            return
        for name in global_names(function.__code__) & function.__globals__.keys():
            self._look(function.__globals__, name)

    def _read_class(self, kind: type) -> None:
        """A place may be hidden by a class further down, now or later."""
        lower: list[type] = []
        for base in filter(is_read, kind.__mro__):
            lower.append(base)
            for name in self._names.intersection(vars(base)).difference(() if self._kinds[kind] else ("__init__",)):
                if is_installed(base.__module__):
                    self._follow(vars(base)[name])
                elif self._look(vars(base), name, id(base)):
                    for each in lower[:-1]:
                        self._add_place(vars(each), name, id(each))

    def _look(self, namespace: Mapping[str, Any], name: str, key: int | None = None) -> bool:
        """Take what a name means in a namespace; whether it is a place to watch."""
        value = namespace.get(name)
        if self._take(value):
            return False
        return id(namespace) not in self._known and self._add_place(namespace, name, key or id(namespace))

    def _add_place(self, namespace: Mapping[str, Any], name: str, key: int) -> bool:
        if (key, name) not in self._placed:
            self._placed.add((key, name))
            self.places.append((namespace, name))
        return True

    def _take(self, value: Any) -> bool:
        """Follow a value; whether it is code, which is read instead of being watched."""
        kind = type(value)
        if issubclass(kind, FunctionType | MethodType | property | staticmethod | classmethod | functools.partial):
            self._follow(value)
            if issubclass(kind, MethodType):
                self._take(value.__self__)
            return True
        if issubclass(kind, ModuleType):
            if not (is_left(value.__name__) or is_installed(value.__name__)):
                self._namespaces[id(vars(value))] = vars(value)
            return True
        if issubclass(kind, type):
            if is_read(value) and not is_installed(value.__module__):
                self._kinds[value] = True
            return True
        if ("value", id(value)) in self._seen or issubclass(kind, (*PLAIN, enum.Enum, type(None))):
            return False
        self._seen.add(("value", id(value)))
        if issubclass(kind, _HELD) or kind.__module__ == "numpy":
            self.objects.append(value)
        elif is_read(kind) or kind in OPENED:
            self._take_object(value)
        return False

    def _take_object(self, value: Any) -> None:
        kind = type(value)
        attributes = getattr(value, "__dict__", None)
        if is_read(kind):
            self._kinds.setdefault(kind, False)
        if isinstance(attributes, dict):
            self._namespaces[id(attributes)] = attributes
            if any("__getattr__" in vars(base) for base in kind.__mro__):  # its attributes are elsewhere
                self._take_all(attributes)

    def _take_all(self, values: Any) -> None:
        for each in list(values.values() if isinstance(values, dict) else values):
            if not self._take(each) and isinstance(each, dict | list):
                self._take_all(each)
