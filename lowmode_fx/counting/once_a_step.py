"""The work of a graph that is done on weights alone: once a step, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from torch import fx

from lowmode_fx.counting.per_image import function_name, repeated_per_image
from lowmode_fx.lowering.ladder import Ladder

_IN_PLACE = {"setitem", "iadd", "isub", "imul", "itruediv", "imatmul", "ipow"}


def weights_graph(graph_module: fx.GraphModule, per_image: Set[str]) -> fx.GraphModule | None:
    """The part of a graph that runs once a step over the same parameters, its results in a tuple; ``None`` without one.

    Kernels are pooled there, and weights standardised. What is computed from images belongs to the images, even if only
    their size is read; so does what a module that is not traced does to its own weights.

    ``per_image``: names of further nodes that work for each image, from ``repeated_per_image``.
    """
    following = _followers(graph_module.graph, per_image)
    apart = [node for node in graph_module.graph.nodes if node not in following and node.op != "output"]
    if not any(node.op.startswith("call_") for node in apart):
        return None
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in apart:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    ends = (node for node in apart if node.op.startswith("call_") and not all(user in copies for user in node.users))
    graph.output(tuple(copies[node] for node in ends))
    return fx.GraphModule(graph_module, graph)


def work_on_weights(ladder: Ladder) -> set[str]:
    """Names of the nodes of the full-mode graph that run once a step."""
    graph = ladder.full.graph
    following = _followers(graph, repeated_per_image(ladder))
    return {node.name for node in graph.nodes if node not in following and node.op.startswith("call_")}


def _followers(graph: fx.Graph, per_image: Set[str]) -> set[fx.Node]:
    """The nodes whose work grows with the batch: an input leads to them, or they are made for each image."""
    following: set[fx.Node] = set()
    while True:
        known = len(following)
        for node in graph.nodes:
            led_to = node.op == "placeholder" or any(source in following for source in node.all_input_nodes)
            if led_to or node.name in per_image:
                following.add(node)
                following.update(_written(node))
        if len(following) == known:
            return following


def _written(node: fx.Node) -> Iterator[fx.Node]:
    """What a node writes to in place: a tensor, and what it is a view of."""
    name = function_name(node)
    if name.strip("_") not in _IN_PLACE and (not name.endswith("_") or name.endswith("__")):
        return
    written: Any = node.args[0] if node.args else None
    while isinstance(written, fx.Node) and written.op != "placeholder":
        yield written
        written = written.args[0] if written.args else None
