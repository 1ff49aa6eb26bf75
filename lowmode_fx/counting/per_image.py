"""Which nodes of a graph work for each image although no image leads to them, such as queries repeated over a batch.

A symbolic graph has an edge from the images' size to such a node. A graph of one run (``live``, ``export``) holds the
batch as a number, on any axis: the model is captured on a second batch, twice as large, and the graphs are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

from torch import fx

from lowmode_fx.capture.capture import TraceError, trace_call
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.sharded import is_sharded, unsharded_twin
from passes.shapes import node_shape

#: Functions that repeat a tensor for every image, or make one.
_REPEATING = {
    *("expand", "expand_as", "repeat", "tile", "broadcast_to", "repeat_interleave"),
    *("zeros", "ones", "full", "empty", "rand", "randn", "randint", "normal"),
}


def repeated_per_image(ladder: Ladder) -> frozenset[str]:
    """Names of the nodes that no input leads to and whose work grows with the batch, in every mode's graph.

    A model that does not run on a larger batch is judged by numbers: a tensor that is repeated or made, with an axis as
    long as the batch, is taken to be made for each image.
    """
    report = ladder.rungs[0].report
    apart = [node for node in _without_inputs(ladder.full.graph) if node.op.startswith("call_")]
    if report.any_size or not apart:
        return frozenset()
    model = unsharded_twin(ladder.model) if is_sharded(ladder.model) else ladder.model
    more = ladder.inputs.with_more_images()
    front_end: Any = report.front_end
    try:
        larger = trace_call(model, more, more.blank_for(model), front_end, report.leaf_modules)
    except TraceError:
        images = ladder.inputs.image.shape[0]
        return frozenset(node.name for node in apart if _is_made_for(node, images))
    here, there = (Counter(map(_kind, graph.nodes)) for graph in (ladder.full.graph, larger.graph_module.graph))
    return frozenset(node.name for node in apart if here[_kind(node)] != there[_kind(node)])


def function_name(node: fx.Node) -> str:
    """What a node calls, in whatever spelling: ``expand``, ``copy_``; empty for a module."""
    target: Any = getattr(node.target, "overloadpacket", node.target)
    return "" if node.op == "call_module" else target if isinstance(target, str) else getattr(target, "__name__", "")


def _without_inputs(graph: fx.Graph) -> Iterator[fx.Node]:
    following: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not following.isdisjoint(node.all_input_nodes):
            following.add(node)
        else:
            yield node


def _kind(node: fx.Node) -> Hashable:
    """What a node does, where and on what: as many nodes of a kind on any batch work once a step."""
    stack = (node.meta.get("nn_module_stack") or {}).values()  # whose keys tell one call of a module from the next
    place = next((path for path, _ in reversed(stack)), "")
    called = str(node.target) if node.op == "call_module" else function_name(node)
    read = tuple(str(source.target) for source in node.all_input_nodes if source.op == "get_attr")
    return node.op, called, place, read, repr(node_shape(node))


def _is_made_for(node: fx.Node, images: int) -> bool:
    shape = node_shape(node)
    return isinstance(shape, tuple) and images in shape and function_name(node).strip("_") in _REPEATING
