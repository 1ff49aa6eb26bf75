"""Everything that modules hold within reach of their attributes, found by one walk: what a forward could change."""

from __future__ import annotations

import argparse
import functools
import itertools
import random
import sys
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from passes.preserve.containers import cell_contents

_ATOMS = frozenset({bool, int, float, complex, str, bytes, type, type(None), torch.dtype, torch.device, torch.Size})
_PLAIN_CONTAINERS = frozenset({dict, list, set, deque, OrderedDict})
#: Iterators whose position is known, so that they can be copied.
_RUN_OVER: tuple[Any, ...] = ([], (), set(), range(0), range(2**70), "", "é", b"", {}, {}.values(), {}.items())
ITERATORS = frozenset(
    {each for each in vars(itertools).values() if isinstance(each, type)}
    | {enumerate, filter, map, reversed, zip, type(reversed([]))}
    | {type(iter(each)) for each in _RUN_OVER}
)
#: Instances of these classes are not opened: threads, loggers and optimizers change independently.
CLOSED = sys.stdlib_module_names | {"torch", "numpy"}
#: All the same, of these they are: they hold options.
OPENED = frozenset({SimpleNamespace, argparse.Namespace})


@dataclass
class Holdings:
    """Each object once.

    ``containers``: dictionaries (``__dict__`` and registries of modules among them), lists, deques, sets, bytearrays
    and closure cells. ``empty``: empty ones, as most of a module's are; here one may appear twice. ``generators``: of
    random numbers, torch's, Python's and numpy's. ``iterators``: each with the container that holds it, and its key
    there. ``objects``: others that were opened. ``functions``: those of Python, and bound methods.
    """

    modules: list[nn.Module] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    arrays: list[Any] = field(default_factory=list)
    generators: list[Any] = field(default_factory=list)
    containers: list[Any] = field(default_factory=list)
    empty: list[Any] = field(default_factory=list)
    iterators: list[tuple[Any, Any, Iterator[Any]]] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)
    functions: list[Any] = field(default_factory=list)


def find_holdings(*modules: nn.Module) -> Holdings:
    """What ``modules`` and everything they reach hold: in registries, attributes, containers, hooks and closures.

    Other objects are opened one level deep, unless torch or the standard library defines them: a meter's counts are
    found, and what a trainer's callbacks hold is not.
    """
    walk = _Walk()
    for module in modules:
        walk.pending.append((module, True))
    walk.run()
    return walk.found


def find_held(holder: dict[str, Any]) -> Holdings:
    """What the values of a dictionary hold, with itself among the containers."""
    walk = _Walk()
    walk.pending.append((holder, True))
    walk.run()
    return walk.found


def copy_iterator(iterator: Iterator[Any]) -> Iterator[Any]:
    """An iterator that continues from the current position of this one, without moving it; its source is shared.

    Raises ``TypeError`` if its position is unknown, as for a generator function.
    """
    if type(iterator) not in ITERATORS:
        raise TypeError(f"{type(iterator).__name__} can't be copied")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # copies of itertools end with Python 3.14
        parts: Any = iterator.__reduce__()
        make, arguments, *rest = parts
        copied: Any = make(*map(_copy_part, arguments))
        if rest and rest[0] is not None:
            state = rest[0]
            copied.__setstate__(tuple(map(_copy_state, state)) if isinstance(state, tuple) else state)
    return copied  # type: ignore[no-any-return]


def _copy_part(value: Any) -> Any:
    if type(value) in (list, tuple) and any(isinstance(each, Iterator) for each in value):
        return type(value)(map(_copy_part, value))  # a chain's
    return copy_iterator(value) if isinstance(value, Iterator) else value


def _copy_state(value: Any) -> Any:
    # A cycle stores what it has seen in a list that it would share with its copy.
    return list(value) if type(value) is list else _copy_part(value)


class _Walk:
    def __init__(self) -> None:
        self.found = Holdings()
        #: Values to visit, and whether objects that they hold are opened.
        self.pending: list[tuple[Any, bool]] = []
        self._seen: dict[bool, set[int]] = {True: set(), False: set()}
        self._handlers: dict[type, Callable[[Any, bool], None]] = {}

    def run(self) -> None:
        pending, handlers, seen_open = self.pending, self._handlers, self._seen[True]
        while pending:
            value, opens = pending.pop()
            seen = self._seen[opens]
            if id(value) in seen or id(value) in seen_open:
                continue
            seen.add(id(value))
            kind = type(value)
            handler = handlers.get(kind)
            if handler is None:
                handler = handlers[kind] = self._handler(kind)
            handler(value, opens)

    def _handler(self, kind: type) -> Callable[[Any, bool], None]:
        for handled, handler in (
            (nn.Module, self._on_module),
            (dict, self._on_dictionary),
            (Tensor, lambda value, _: self.found.tensors.append(value)),
            ((list, deque, set), self._on_list),
            ((tuple, frozenset), lambda value, opens: self._on_parts(tuple(value), opens)),
            (bytearray, lambda value, _: self.found.containers.append(value)),
            (_arrays("memmap"), self._leave),  # a file, possibly a data set
            (_arrays("ndarray"), lambda value, _: self.found.arrays.append(value)),
            (random.SystemRandom, lambda value, _: None),  # it has no state
            (_generators(), lambda value, _: self.found.generators.append(value)),
            (CellType, self._on_cell),
            (FunctionType, lambda value, opens: self._on_function(value, value.__closure__ or (), opens)),
            (MethodType, lambda value, opens: self._on_function(value, (value.__self__,), opens)),
            (functools.partial, lambda value, opens: self._on_parts((value.func, value.args, value.keywords), opens)),
        ):
            if issubclass(kind, handled):
                return handler
        closed = issubclass(kind, type) or kind.__module__.partition(".")[0] in CLOSED
        return self._leave if closed and kind not in OPENED else self._on_object

    def _leave(self, value: Any, opens: bool) -> None:
        pass

    def _on_module(self, module: nn.Module, opens: bool) -> None:
        self.found.modules.append(module)
        if isinstance(module, torch.jit.ScriptModule):  # its registries are in C++
            self._add_items(module, enumerate((*module.parameters(), *module.buffers())), opens)
        self.pending.append((vars(module), True))

    def _on_dictionary(self, dictionary: dict[Any, Any], opens: bool) -> None:
        self.found.containers.append(dictionary)
        self._add_items(dictionary, dictionary.items(), opens)

    def _on_list(self, values: Any, opens: bool) -> None:
        self.found.containers.append(values)
        self._add_items(values, enumerate(values), opens)

    def _on_cell(self, cell: CellType, opens: bool) -> None:
        self.found.containers.append(cell)
        self._add_items(cell, enumerate(cell_contents(cell)), opens)

    def _on_parts(self, parts: tuple[Any, ...], opens: bool) -> None:
        self.pending += [(part, opens) for part in parts]

    def _on_function(self, value: Any, parts: tuple[Any, ...], opens: bool) -> None:
        self.found.functions.append(value)
        self._on_parts(parts, opens)

    def _on_object(self, value: Any, opens: bool) -> None:
        attributes = getattr(value, "__dict__", None)
        if opens and isinstance(attributes, dict):
            self.found.objects.append(value)
            self.pending.append((attributes, False))

    def _add_items(self, holder: Any, items: Iterable[tuple[Any, Any]], opens: bool) -> None:
        empty, pending = self.found.empty, self.pending
        for key, value in items:
            kind = type(value)
            if kind in _ATOMS:
                continue
            if kind in _PLAIN_CONTAINERS and not value:
                empty.append(value)
            elif kind in ITERATORS:
                self.found.iterators.append((holder, key, value))
            else:
                pending.append((value, opens))


def _arrays(name: str) -> tuple[type, ...]:
    numpy = sys.modules.get("numpy")  # otherwise there are no arrays
    return () if numpy is None else (getattr(numpy, name),)


def _generators() -> tuple[type, ...]:
    draws = sys.modules.get("numpy.random")
    return (torch.Generator, random.Random, *(() if draws is None else (draws.Generator, draws.RandomState)))
