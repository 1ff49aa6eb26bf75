"""Fixed pools that cover their whole map in full-mode become global pools in low-mode."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from passes.base import Change, PassContext, PassReport, graph_pass
from passes.calls import (
    AVG_POOL_ARGUMENTS,
    AVG_POOL_MODULES,
    AVG_POOLS,
    GLOBAL_AVG_POOLS,
    GLOBAL_MAX_POOLS,
    bound_arguments,
    spatial,
)
from passes.checks import full_shapes_known
from passes.find_maps import is_map
from passes.match import max_pool_sites, site_name
from passes.rewire import insert_after
from passes.shapes import full_shape
from passes.wording import sides


@graph_pass(requires=[full_shapes_known])
def adapt_heads(graph_module: fx.GraphModule, context: PassContext) -> PassReport:
    """Make every fixed pool global whose window covers its whole map in full-mode (``AvgPool2d(7)`` on 7×7).

    Args:
        graph_module: The graph, which is rewired in place.
        context: The full-mode graph, whose shapes are known, and the inputs.

    Returns:
        The pools that became global.
    """
    changes = []
    for site in max_pool_sites(graph_module):
        if not site.with_indices and _covers(site.node, site.input, site.kernel):
            _make_global(site.node, site.input, GLOBAL_MAX_POOLS[len(site.kernel)])
            changes.append(_change(site.name, site.node, "max", site.kernel))
    for node in list(graph_module.graph.nodes):
        arguments = _avg_pool_arguments(graph_module, node)
        kernel = arguments.get("kernel_size")
        if kernel and not any(spatial(arguments["padding"], len(kernel))):
            source = node.all_input_nodes[0]
            if _covers(node, source, kernel):
                name = site_name(node)
                _make_global(node, source, GLOBAL_AVG_POOLS[len(kernel)])
                if arguments["divisor_override"]:
                    factor = math.prod(kernel) / arguments["divisor_override"]
                    insert_after(graph_module.graph, node, operator.mul, factor)
                changes.append(_change(name, node, "average", kernel))
    return PassReport("adapt_heads", tuple(changes))


def _covers(node: fx.Node, source: fx.Node, kernel: tuple[int, ...]) -> bool:
    dims = len(kernel)
    before, after = full_shape(source), full_shape(node)
    return is_map(before) and is_map(after) and before[-dims:] == kernel and set(after[-dims:]) == {1}


def _make_global(node: fx.Node, source: fx.Node, function: Callable[..., Any]) -> None:
    node.op, node.target = "call_function", function
    node.args, node.kwargs = (source, 1), {}


def _change(name: str, node: fx.Node, kind: str, kernel: tuple[int, ...]) -> Change:
    return Change(name, node.name, f"{kind} pool {sides(kernel)}", f"global {kind} pool")


def _avg_pool_arguments(graph_module: fx.GraphModule, node: fx.Node) -> dict[str, Any]:
    """Arguments of an average pool with a constant window, the kernel as one integer per side; otherwise empty."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        dims = AVG_POOL_MODULES.get(type(module))
        arguments = {name: getattr(module, name, None) for name in AVG_POOL_ARGUMENTS[1:]}
    else:
        dims = AVG_POOLS.get(node.target) if node.op == "call_function" else None
        arguments = bound_arguments(node, AVG_POOL_ARGUMENTS) if dims else {}
    constant = _is_constant(arguments.get("kernel_size")) and _is_constant(arguments.get("padding", 0))
    if dims is None or not constant:
        return {}
    defaults = {"padding": 0, "divisor_override": None}
    return {**defaults, **arguments, "kernel_size": spatial(arguments["kernel_size"], dims)}


def _is_constant(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, list | tuple) and all(isinstance(side, int) for side in value))
