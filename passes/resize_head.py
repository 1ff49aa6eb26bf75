"""Places that fix a map's size (flattening, tables of positions): find the map, and give it its full-mode size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import torch.nn.functional as F
from torch import fx

from passes.base import Change
from passes.calls import CONVS
from passes.errors import PassError
from passes.match import module_path
from passes.shapes import Shape, ShapeError, ShapeTree

_SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize_head(graph_module: fx.GraphModule, error: ShapeError, full_shapes: Mapping[str, ShapeTree]) -> fx.Node:
    """Resize the map that leads to ``error.node`` to its full-mode size; returns the node that does.

    A map that is flattened is resized for that alone. Elsewhere (a table of positions that is added or multiplied), the
    map is resized where it leaves the convolutions, for all that follows.

    Raises ``PassError`` where no map leads to the node.
    """
    flatten = find_flatten(error, full_shapes)
    source = flatten.all_input_nodes[0] if flatten else find_map(error, full_shapes)
    if source is None:
        raise PassError(f"adapt_head: no map of convolutions leads to {error.node.name}; {error}") from error
    size = full_shapes[source.name][2:]
    with graph_module.graph.inserting_after(source):
        resized = graph_module.graph.call_function(
            F.interpolate, (source,), {"size": size, "mode": _SMOOTH[len(size)], "align_corners": False}
        )
    if flatten:
        flatten.replace_input_with(source, resized)
    else:
        source.replace_all_uses_with(resized, delete_user_cb=lambda user: user is not resized)
        _move_sites(graph_module, source, resized)
    graph_module.recompile()
    site, shown = flatten or source, "×".join(map(str, size))
    name = str(site.target) if site.op == "call_module" else module_path(site) or site.name
    resized.meta["resized"] = Change(name, site.name, "low-mode map", f"resized to {shown}")
    return resized


def drop_needless(
    graph_module: fx.GraphModule, resized: Sequence[fx.Node], shapes: Mapping[fx.Node, ShapeTree]
) -> tuple[Change, ...]:
    """Take out what a later resize further up has made needless; returns the changes that stay."""
    changes = []
    for node in resized:
        source = node.all_input_nodes[0]
        if shapes[source] != shapes[node]:
            changes.append(node.meta["resized"])
            continue
        node.replace_all_uses_with(source)
        _move_sites(graph_module, node, source)
        graph_module.graph.erase_node(node)
    graph_module.recompile()
    return tuple(changes)


def _move_sites(graph_module: fx.GraphModule, before: fx.Node, after: fx.Node) -> None:
    """Pooled convolutions remember what they read, for the check of their geometry."""
    for node in graph_module.graph.nodes:
        site = node.meta.get("unpooled")
        if site is not None and site.input is before:
            node.meta["unpooled"] = replace(site, input=after)


def find_map(error: ShapeError, full_shapes: Mapping[str, ShapeTree]) -> fx.Node | None:
    """The nearest map upstream of ``error.node`` that is smaller than in full-mode, where it leaves the convolutions.

    That is the last node of the same shape behind a convolution, on the way to the error: its layout is known to be
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
            full, low = full_shapes.get(source.name), error.shapes.get(source)
            if source.target in CONVS and _is_smaller_map(full, low, error):
                return _last_alike(source, way, full_shapes)
            pending.append((source, (source, *way)))
    return None


def _last_alike(conv: fx.Node, way: Sequence[fx.Node], full_shapes: Mapping[str, ShapeTree]) -> fx.Node:
    last = conv
    for node in way[:-1]:  # the last one is where the shapes don't fit
        shape = full_shapes.get(node.name)
        if not is_map(shape) or shape != full_shapes[conv.name]:
            break
        last = node
    return last


def find_flatten(error: ShapeError, full_shapes: Mapping[str, ShapeTree]) -> fx.Node | None:
    """The nearest node upstream of ``error.node`` (or itself) that lays a smaller map out as a flat row."""
    pending, seen = [error.node], set()
    while pending:
        current = pending.pop(0)
        sources = [source for source in current.all_input_nodes if source.op != "get_attr"]
        if current not in seen and sources:
            seen.add(current)
            before, after = (full_shapes.get(name) for name in (sources[0].name, current.name))
            smaller = _is_smaller_map(before, error.shapes[sources[0]], error)
            if smaller and is_map(before) and after == (before[0], math.prod(before[1:])):
                return current
            pending.extend(sources)
    return None


def _is_smaller_map(full: ShapeTree, low: ShapeTree, error: ShapeError) -> bool:
    """Whether these are shapes of one map ``(N, C, *S)`` of the images' rank: sides differ, batch and channels don't.

    A row of tokens ``(N, C, H·W)`` is no map, and neither is one whose channels come last.
    """
    images = next(shape for node, shape in error.shapes.items() if node.op == "placeholder")
    alike = isinstance(full, Shape) and isinstance(low, Shape) and len(full) == len(low) == len(images)
    return alike and full[:2] == low[:2] and full[0] == images[0] and full[2:] != low[2:]


def is_map(shape: Any) -> TypeGuard[Shape]:
    """Whether this is the shape of a map with spatial sizes, ``(N, C, *S)``."""
    return isinstance(shape, Shape) and 3 <= len(shape) <= 5
