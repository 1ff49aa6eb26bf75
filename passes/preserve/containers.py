"""Restore the contents of Python's containers, by identity and in order.

Subclasses may override how items are added: the plain methods are used to restore them.
"""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from collections.abc import Iterable
from functools import partial
from types import CellType
from typing import Any

from passes.preserve.restorers import Restorer


def container_restorer(container: Any) -> Restorer:
    """For a dictionary, list, deque, set, bytearray or closure cell."""
    if isinstance(container, dict):
        return partial(_refill_dict, container, dict(container))
    if isinstance(container, list | deque):
        return partial(_refill_list, container, list(container))
    if isinstance(container, set):
        return partial(_refill_set, container, set(container))
    if isinstance(container, bytearray):
        return partial(operator.setitem, container, slice(None), bytes(container))
    return partial(_refill_cell, container, cell_contents(container))


def empty_restorer(containers: Iterable[Any]) -> Restorer:
    """For many empty containers at once, which is cheaper than one by one."""
    return partial(_empty, containers)


def array_restorer(array: Any) -> Restorer:
    """For a numpy array."""
    return partial(_refill_array, array, array.copy())


def cell_contents(cell: CellType) -> list[Any]:
    """The contents of a closure cell, as a list of one, or empty while the variable has no value."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def replace_item(container: Any, key: Any, value: Any) -> None:
    """Put ``value`` at ``key`` of ``container``. Raises ``TypeError`` if it has no keys."""
    if isinstance(container, CellType):
        container.cell_contents = value
    elif isinstance(container, dict):
        dict.__setitem__(container, key, value)
    else:
        container[key] = value


def _empty(containers: Iterable[Any]) -> None:
    for container in containers:
        if container:
            container.clear()


def _refill_dict(container: dict[Any, Any], held: dict[Any, Any]) -> None:
    if same_items(container, held) and same_items(container.values(), held.values()):
        return
    kind = OrderedDict if isinstance(container, OrderedDict) else dict
    for key in [key for key in container if key not in held]:
        kind.__delitem__(container, key)
    for key, value in held.items():
        kind.__setitem__(container, key, value)
    if not same_items(container, held):  # the order
        kind.clear(container)
        for key, value in held.items():
            kind.__setitem__(container, key, value)


def _refill_list(container: list[Any] | deque[Any], held: list[Any]) -> None:
    if not same_items(container, held):
        kind: Any = list if isinstance(container, list) else deque
        kind.clear(container)
        kind.extend(container, held)


def _refill_set(container: set[Any], held: set[Any]) -> None:
    if container != held:
        set.clear(container)
        set.update(container, held)


def _refill_cell(cell: CellType, held: list[Any]) -> None:
    if held:
        cell.cell_contents = held[0]
    elif cell_contents(cell):
        del cell.cell_contents


def _refill_array(array: Any, held: Any) -> None:
    if array.flags.writeable:
        array[...] = held


def same_items(now: Any, before: Any) -> bool:
    """Whether two collections hold the same objects, in the same order."""
    return len(now) == len(before) and all(map(operator.is_, now, before))
