"""Flatten and rebuild outputs of models: pytree's containers, and containers that are not registered with it.

These are dataclasses and subclasses of ``dict``; ``ModelOutput`` is both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


@dataclasses.dataclass(frozen=True)
class Structure:
    """A tree without its leaves. ``inner``: for each of pytree's leaves the container that it is, if it is one."""

    spec: pytree.TreeSpec
    inner: tuple[_Container | None, ...]


@dataclasses.dataclass(frozen=True)
class _Container:
    kind: type
    names: tuple[Any, ...]
    content: Structure


def tree_flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves of a tree, and its structure."""
    values, spec = pytree.tree_flatten(tree)
    leaves: list[Any] = []
    inner: list[_Container | None] = []
    for value in values:
        items = container_items(value)
        if items is None:
            leaves.append(value)
            inner.append(None)
        else:
            held, content = tree_flatten(list(items.values()))
            leaves += held
            inner.append(_Container(type(value), tuple(items), content))
    return leaves, Structure(spec, tuple(inner))


def tree_unflatten(leaves: Iterable[Any], structure: Structure) -> Any:
    """The tree with this structure and these leaves."""
    rest = iter(leaves)
    return _build(rest, structure)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of a tree."""
    return tree_flatten(tree)[0]


def call_leaves(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The leaves of a call's arguments; fast if they are plain tensors, as in most training steps."""
    if not kwargs and all(isinstance(each, Tensor) for each in args):
        return list(args)
    return tree_leaves((tuple(args), dict(kwargs)))


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with ``function`` applied to each leaf."""
    leaves, structure = tree_flatten(tree)
    return tree_unflatten([function(leaf) for leaf in leaves], structure)


def container_items(value: Any) -> dict[Any, Any] | None:
    """The items of a container that pytree does not know, by name; ``None`` for anything else."""
    kind = type(value)
    if kind in pytree.SUPPORTED_NODES:
        return None
    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is not None and kind.__dataclass_params__.init:
        own = dataclasses.fields(value)
        return {each.name: getattr(value, each.name) for each in own} if all(each.init for each in own) else None
    return dict(value) if isinstance(value, dict) else None


def container_of(kind: type, names: Sequence[Any], values: Sequence[Any]) -> Any:
    """A container of this class: the inverse of ``container_items``."""
    items = zip(names, values, strict=True)
    return kind(**dict(items)) if dataclasses.is_dataclass(kind) else kind(items)


def _build(rest: Any, structure: Structure) -> Any:
    values = [
        next(rest) if each is None else container_of(each.kind, each.names, _build(rest, each.content))
        for each in structure.inner
    ]
    return pytree.tree_unflatten(values, structure.spec)
