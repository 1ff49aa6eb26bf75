"""Values inside a call's arguments, by paths of keys and indices."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

#: In a path, every element of a list or tuple.
EACH = ...


def value_at(tree: Any, path: Sequence[Any]) -> Any:
    """The value at ``path``, of several the first; raises ``LookupError`` or ``AttributeError`` if there is none."""
    value = tree
    for key in path:
        value = _get(value, 0 if key is EACH else key)
    return value


def argument_at(
    args: Sequence[Any], kwargs: Mapping[str, Any], name: str, place: int | None, within: Sequence[Any]
) -> Any:
    """The value at ``within`` of the argument ``name``, given by position or by name; ``None`` if there is none."""
    given = args[place] if place is not None and place < len(args) else kwargs.get(name)
    try:
        return value_at(given, within)
    except (AttributeError, LookupError, TypeError):
        return None


def map_at(tree: Any, path: Sequence[Any], function: Callable[[Any], Any]) -> Any:
    """The same structure with ``function`` applied at ``path``; raises as ``value_at`` does."""
    if not path:
        return function(tree)
    key, *rest = path
    if key is EACH:
        return _rebuilt(tree, [map_at(each, rest, function) for each in tree])
    value = map_at(_get(tree, key), rest, function)
    if isinstance(tree, Mapping):
        changed: Any = dict(tree) if type(tree) is dict else copy.copy(tree)
        changed[key] = value
        return changed
    if isinstance(key, str):  # a field
        replace: Any = getattr(tree, "_replace", partial(dataclasses.replace, tree))
        return replace(**{key: value})
    values = list(tree)
    values[key] = value
    return _rebuilt(tree, values)


def _get(tree: Any, key: Any) -> Any:
    is_field = isinstance(key, str) and not isinstance(tree, Mapping)
    return getattr(tree, key) if is_field else tree[key]


def _rebuilt(sequence: Any, values: list[Any]) -> Any:
    return sequence._make(values) if hasattr(sequence, "_make") else type(sequence)(values)
