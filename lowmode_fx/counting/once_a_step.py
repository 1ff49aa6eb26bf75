"""What a graph does once a step, whatever the batch: its work on weights, which no image has a part in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from passes.shapes import node_shape

#: Repeat a tensor, as a learned token is for every image, or make one; a graph may know the batch as a number.
_FOR_EACH = {
    *("expand", "expand_as", "repeat", "tile", "broadcast_to", "repeat_interleave"),
    *("zeros", "ones", "full", "empty", "rand", "randn", "randint", "normal"),
}
_IN_PLACE = {"setitem", "iadd", "isub", "imul", "itruediv", "imatmul", "ipow"}


def weights_graph(graph_module: fx.GraphModule, images: int) -> fx.GraphModule | None:
    """The part of a graph that runs once a step over the same parameters, its results in a tuple; ``None`` without one.

    Kernels are pooled there, and weights standardised. What is worked out from images counts for them, if only their
    size is read; so does what a module that isn't traced does to its own weights.

    images: how many the graph's shapes are for.
    """
    following = _followers(graph_module.graph, images)
    apart = [node for node in graph_module.graph.nodes if node not in following and node.op != "output"]
    if not any(node.op.startswith("call_") for node in apart):
        return None
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in apart:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    ends = (node for node in apart if node.op.startswith("call_") and not all(user in copies for user in node.users))
    graph.output(tuple(copies[node] for node in ends))
    return fx.GraphModule(graph_module, graph)


def work_on_weights(graph_module: fx.GraphModule, images: int) -> set[str]:
    """Names of the nodes that run once a step."""
    following = _followers(graph_module.graph, images)
    return {node.name for node in graph_module.graph.nodes if node not in following and node.op.startswith("call_")}


def _followers(graph: fx.Graph, images: int) -> set[fx.Node]:
    """The nodes whose work grows with the batch: an input leads to them, or they are made for each image."""
    following: set[fx.Node] = set()
    while True:
        known = len(following)
        for node in graph.nodes:
            led_to = node.op == "placeholder" or any(source in following for source in node.all_input_nodes)
            if led_to or _is_for_each(node, images):
                following.add(node)
                following.update(_written(node))
        if len(following) == known:
            return following


def _is_for_each(node: fx.Node, images: int) -> bool:
    """Whether a tensor is made with an axis for the images; a single one leaves none to see."""
    shape = node_shape(node)
    return images > 1 and isinstance(shape, tuple) and shape[:1] == (images,) and _name(node).strip("_") in _FOR_EACH


def _written(node: fx.Node) -> Iterator[fx.Node]:
    """What a node writes to in place: a tensor, and what it is a view of."""
    name = _name(node)
    if name.strip("_") not in _IN_PLACE and (not name.endswith("_") or name.endswith("__")):
        return
    written: Any = node.args[0] if node.args else None
    while isinstance(written, fx.Node) and written.op != "placeholder":
        yield written
        written = written.args[0] if written.args else None


def _name(node: fx.Node) -> str:
    """What a node calls, in whatever spelling: ``expand``, ``copy_``; of a module, nothing."""
    target: Any = getattr(node.target, "overloadpacket", node.target)
    return "" if node.op == "call_module" else target if isinstance(target, str) else getattr(target, "__name__", "")
