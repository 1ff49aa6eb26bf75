"""Fixed pools that cover their whole map in full-mode are global pools, and become that in low-mode."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from passes.base import Change, PassContext, PassReport, graph_pass
from passes.calls import aten, bound_arguments, spatial
from passes.checks import full_shapes_known
from passes.find_maps import is_map
from passes.match import max_pool_sites, module_path
from passes.shapes import full_shape
from passes.wording import sides

_AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MODULES: tuple[tuple[type[nn.Module], int], ...] = ((nn.AvgPool1d, 1), (nn.AvgPool2d, 2), (nn.AvgPool3d, 3))
_FUNCTIONS = {F.avg_pool1d: 1, F.avg_pool2d: 2, F.avg_pool3d: 3, aten.avg_pool2d.default: 2, aten.avg_pool3d.default: 3}
_GLOBAL_AVG: dict[int, Callable[..., Any]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_GLOBAL_MAX: dict[int, Callable[..., Any]] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}


@graph_pass(requires=[full_shapes_known])
def adapt_heads(graph_module: fx.GraphModule, context: PassContext) -> PassReport:
    """Make every fixed pool global whose window covers its whole map in full-mode (``AvgPool2d(7)`` on 7×7)."""
    changes = []
    for site in max_pool_sites(graph_module):
        if not site.with_indices and _covers(site.node, site.input, site.kernel):
            _make_global(site.node, site.input, _GLOBAL_MAX[len(site.kernel)])
            changes.append(_change(site.name, site.node, "max", site.kernel))
    for node in list(graph_module.graph.nodes):
        arguments = _avg_pool_arguments(graph_module, node)
        kernel = arguments.get("kernel_size")
        if kernel and not any(spatial(arguments["padding"], len(kernel))):
            source = node.all_input_nodes[0]
            if _covers(node, source, kernel):
                name = str(node.target) if node.op == "call_module" else module_path(node) or node.name
                _make_global(node, source, _GLOBAL_AVG[len(kernel)])
                if arguments["divisor_override"]:
                    _scale(graph_module.graph, node, math.prod(kernel) / arguments["divisor_override"])
                changes.append(_change(name, node, "average", kernel))
    return PassReport("adapt_heads", tuple(changes))


def _covers(node: fx.Node, source: fx.Node, kernel: tuple[int, ...]) -> bool:
    dims = len(kernel)
    before, after = full_shape(source), full_shape(node)
    return is_map(before) and is_map(after) and before[-dims:] == kernel and set(after[-dims:]) == {1}


def _make_global(node: fx.Node, source: fx.Node, function: Callable[..., Any]) -> None:
    node.op, node.target = "call_function", function
    node.args, node.kwargs = (source, 1), {}


def _scale(graph: fx.Graph, node: fx.Node, factor: float) -> None:
    with graph.inserting_after(node):
        scaled = graph.call_function(operator.mul, (node, factor))
    node.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)


def _change(name: str, node: fx.Node, kind: str, kernel: tuple[int, ...]) -> Change:
    return Change(name, node.name, f"{kind} pool {sides(kernel)}", f"global {kind} pool")


def _avg_pool_arguments(graph_module: fx.GraphModule, node: fx.Node) -> dict[str, Any]:
    """Arguments of an average pool with a constant window, the kernel as one integer a side; else nothing."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        dims = next((dims for cls, dims in _MODULES if type(module) is cls), None)
        arguments = {name: getattr(module, name, None) for name in _AVG_POOL[1:]}
    else:
        dims = _FUNCTIONS.get(node.target) if node.op == "call_function" else None
        arguments = bound_arguments(node, _AVG_POOL) if dims else {}
    constant = _is_constant(arguments.get("kernel_size")) and _is_constant(arguments.get("padding", 0))
    if dims is None or not constant:
        return {}
    defaults = {"padding": 0, "divisor_override": None}
    return {**defaults, **arguments, "kernel_size": spatial(arguments["kernel_size"], dims)}


def _is_constant(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, list | tuple) and all(isinstance(side, int) for side in value))
