"""Heads that flatten a map of fixed size: find where, and resize the map to its full-mode size there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch.nn.functional as F
from torch import fx

from .base import Change
from .errors import PassError
from .match import module_path
from .shapes import Shape, ShapeError, ShapeTree

_SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize_head(graph_module: fx.GraphModule, error: ShapeError, full_shapes: Mapping[str, ShapeTree]) -> Change:
    """Resize the map that is flattened in front of ``error.node`` to its full-mode size; returns what was done.

    Raises ``PassError`` where no flattened map leads to the node.
    """
    flatten = find_flatten(error.node, full_shapes)
    if flatten is None:
        raise PassError(f"adapt_head: no flattened map leads to {error.node.name}; {error}") from error
    source = flatten.all_input_nodes[0]
    size = full_shapes[source.name][2:]
    with graph_module.graph.inserting_before(flatten):
        resized = graph_module.graph.call_function(
            F.interpolate, (source,), {"size": size, "mode": _SMOOTH[len(size)], "align_corners": False}
        )
    flatten.replace_input_with(source, resized)
    graph_module.recompile()
    shown = "×".join(map(str, size))
    return Change(module_path(flatten) or flatten.name, flatten.name, "low-mode map", f"resized to {shown}")


def find_flatten(node: fx.Node, full_shapes: Mapping[str, ShapeTree]) -> fx.Node | None:
    """The nearest node upstream of ``node`` (or itself) that turns a map with spatial sizes into a flat row."""
    pending, seen = [node], set()
    while pending:
        current = pending.pop(0)
        sources = [source for source in current.all_input_nodes if source.op != "get_attr"]
        if current not in seen and sources:
            seen.add(current)
            before, after = (full_shapes.get(name) for name in (sources[0].name, current.name))
            if is_map(before) and isinstance(after, Shape) and len(after) == 2 and after[0] == before[0]:
                return current
            pending.extend(sources)
    return None


def is_map(shape: Any) -> TypeGuard[Shape]:
    """Whether this is the shape of a map with spatial sizes, ``(N, C, *S)``."""
    return isinstance(shape, Shape) and 3 <= len(shape) <= 5
