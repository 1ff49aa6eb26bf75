"""What differs between the signatures of two batches, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lowmode_fx.runtime.captured.signature import Signature
from passes.trees import container_items, tree_unflatten


def difference(now: Signature, before: Signature) -> str:
    """What differs, with both values, and what to do about it."""
    if now.structure != before.structure:
        return "inputs or targets are built differently each time; give the same containers and keys"
    pairs = zip(_names(now), before.leaves, now.leaves, strict=True)
    different = [(name, old, new) for name, old, new in pairs if old != new]
    # What is simplest to repair comes first.
    return min((_told(*each) for each in different), default=(0, ""))[1]


def _told(name: str, before: Any, now: Any) -> tuple[int, str]:
    if not (_is_tensor(before) and _is_tensor(now)):
        if _is_tensor(before) or _is_tensor(now):
            return 1, f"{name} is a tensor only now and then; give one always"
        kind = "Python number" if _type(now) in (int, float, complex) else f"{_type(now).__name__} in Python"
        return 0, f"{name} is a {kind} that changes: {_value(before)}, {_value(now)}; give it as a tensor"
    (shape, strides, dtype), (other_shape, other_strides, other_dtype) = before, now
    if dtype != other_dtype:
        return 2, f"{name} has another dtype each time: {dtype}, {other_dtype}; give one"
    if shape != other_shape:
        return 4, f"{name} has another shape each time: {tuple(shape)}, {tuple(other_shape)}; give a few shapes"
    return 3, f"{name} has another memory format each time, strides {strides}, {other_strides}; give one"


def _is_tensor(leaf: Any) -> bool:
    return len(leaf) == 3


def _type(leaf: Any) -> Any:
    return leaf[0]


def _value(leaf: Any) -> str:
    value = leaf[1]
    return str(value) if isinstance(value, str) and leaf[0] is not str else repr(value)


def _names(signature: Signature) -> list[str]:
    """The leaves' names, as in ``targets[2]``."""
    args, kwargs, targets = tree_unflatten(range(len(signature.leaves)), signature.structure)
    inputs = args[0] if len(args) == 1 and not kwargs else kwargs if kwargs else args
    found = dict([*_walk("inputs", inputs), *_walk("targets", targets)])
    return [found[place] for place in range(len(signature.leaves))]


def _walk(name: str, tree: Any) -> Iterator[tuple[int, str]]:
    if isinstance(tree, int):
        yield tree, name
        return
    items = container_items(tree) or (tree if isinstance(tree, Mapping) else dict(enumerate(tree)))
    for key, value in items.items():
        yield from _walk(f"{name}[{key!r}]", value)
