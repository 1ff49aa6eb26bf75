"""Heads that expect their full-mode map size: covering pools become global, flattened maps are resized or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import torch.nn.functional as F
from torch import Tensor, fx, nn

from .base import Change, PassReport
from .calls import aten, bound_arguments, spatial
from .errors import PassError
from .match import module_path
from .shapes import Shape, ShapeError, ShapeTree

_AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MODULES: tuple[tuple[type[nn.Module], int], ...] = ((nn.AvgPool1d, 1), (nn.AvgPool2d, 2), (nn.AvgPool3d, 3))
_FUNCTIONS = {F.avg_pool1d: 1, F.avg_pool2d: 2, F.avg_pool3d: 3, aten.avg_pool2d.default: 2, aten.avg_pool3d.default: 3}
_GLOBAL: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


def adapt_heads(graph_module: fx.GraphModule, *, full_shapes: Mapping[str, ShapeTree]) -> PassReport:
    """Make every average pool global whose window covers its whole map in full-mode (``AvgPool2d(7)`` on 7×7).

    ``full_shapes``: shape of each node of the full graph by node name, on the full-size input.
    """
    changes = []
    for node in graph_module.graph.nodes:
        kernel = _covering_kernel(graph_module, node, full_shapes)
        if kernel:
            name = str(node.target) if node.op == "call_module" else module_path(node) or node.name
            source = node.args[0] if node.args else node.kwargs["input"]
            node.op, node.target = "call_function", _GLOBAL[len(kernel)]
            node.args, node.kwargs = (source, 1), {}
            changes.append(Change(name, node.name, f"average pool {'×'.join(map(str, kernel))}", "global average pool"))
    return PassReport("adapt_heads", tuple(changes))


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


def _covering_kernel(
    graph_module: fx.GraphModule, node: fx.Node, full_shapes: Mapping[str, ShapeTree]
) -> tuple[int, ...] | None:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        dims = next((dims for cls, dims in _MODULES if type(module) is cls), None)
        kernel, padding = getattr(module, "kernel_size", None), getattr(module, "padding", None)
    else:
        dims = _FUNCTIONS.get(node.target) if node.op == "call_function" else None
        arguments = bound_arguments(node, _AVG_POOL) if dims else {}
        kernel, padding = arguments.get("kernel_size"), arguments.get("padding", 0)
    if dims is None or not _is_constant(kernel) or not _is_constant(padding) or any(spatial(padding, dims)):
        return None
    sides = spatial(kernel, dims)
    shape = full_shapes.get(node.all_input_nodes[0].name)
    return sides if is_map(shape) and shape[-dims:] == sides else None


def _is_constant(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, list | tuple) and all(isinstance(side, int) for side in value))
