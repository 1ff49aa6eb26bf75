"""Finds where a map's size is fixed: from the node that does not fit back to the map that leads to it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeGuard

from torch import fx

from passes.calls import CONVS
from passes.shapes import Shape, ShapeError, ShapeTree, full_shape


def find_map(error: ShapeError) -> fx.Node | None:
    """The nearest map upstream of ``error.node`` that is smaller than in full-mode, where it leaves the convolutions.

    That is the last node of the same shape after a convolution, on the path to the error: its layout is known to be
    ``(N, C, *S)``.
    """
    pending: list[tuple[fx.Node, tuple[fx.Node, ...]]] = [(error.node, (error.node,))]
    seen: set[fx.Node] = set()
    while pending:
        node, way = pending.pop(0)
        for source in node.all_input_nodes:
            if source in seen or "resized" in source.meta:
                continue
            seen.add(source)
            if source.target in CONVS and _is_smaller_map(full_shape(source), error.shapes.get(source), error):
                return _last_alike(source, way)
            pending.append((source, (source, *way)))
    return None


def _last_alike(conv: fx.Node, way: Sequence[fx.Node]) -> fx.Node:
    last = conv
    for node in way[:-1]:  # the last one is the node that fails
        shape = full_shape(node)
        if not is_map(shape) or shape != full_shape(conv):
            break
        last = node
    return last


def find_flatten(error: ShapeError) -> fx.Node | None:
    """The nearest node upstream of ``error.node`` (or itself) that flattens a smaller map."""
    pending, seen = [error.node], set()
    while pending:
        current = pending.pop(0)
        sources = [source for source in current.all_input_nodes if source.op != "get_attr"]
        if current not in seen and sources:
            seen.add(current)
            before, after = full_shape(sources[0]), full_shape(current)
            smaller = _is_smaller_map(before, error.shapes[sources[0]], error)
            if smaller and is_map(before) and after == (before[0], math.prod(before[1:])):
                return current
            pending.extend(sources)
    return None


def _is_smaller_map(full: ShapeTree, low: ShapeTree, error: ShapeError) -> bool:
    """Whether these are shapes of one map ``(N, C, *S)``: sides differ, batch and channels don't.

    Tokens ``(N, C, H·W)`` are not a map, nor is a channels-last tensor.
    """
    images = image_shape(error.shapes)
    alike = isinstance(full, Shape) and isinstance(low, Shape) and len(full) == len(low) == len(images)
    return alike and full[:2] == low[:2] and full[0] == images[0] and full[2:] != low[2:]


def mark_images(graph: fx.Graph, places: Collection[int]) -> None:
    """Mark the placeholders that are images, by their indices; copies of the graph keep the marks."""
    placeholders = (node for node in graph.nodes if node.op == "placeholder")
    for place, node in enumerate(placeholders):
        node.meta["images"] = place in places


def image_shape(shapes: Mapping[fx.Node, ShapeTree]) -> Shape:
    """Shape ``(N, C, *S)`` of the first images; of the first input that is a map, if none is marked."""
    inputs = {node: shape for node, shape in shapes.items() if node.op == "placeholder" and is_map(shape)}
    return next(shape for node, shape in inputs.items() if node.meta.get("images", True))


def is_map(shape: Any) -> TypeGuard[Shape]:
    """Whether this is the shape of a map with spatial sizes, ``(N, C, *S)``."""
    return isinstance(shape, Shape) and 3 <= len(shape) <= 5
