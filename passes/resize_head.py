"""Compute the low graph's shapes; where the model fixes a map's size, resize the map to it, or refuse the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import fx

from passes.base import Change, PassContext, PassReport, graph_pass
from passes.checks import check_batch, full_shapes_known, outputs_alike, parameters_reached
from passes.errors import PassError
from passes.find_maps import find_flatten, find_map
from passes.match import site_name
from passes.misfits import failed_transform, misfit, unequal_branches
from passes.pool_weights import is_custom_transform
from passes.shapes import ShapeError, full_shape, node_shape, propagate_shapes, record_shapes
from passes.spelling import setting
from passes.wording import sides

#: Interpolation mode by number of spatial sides.
SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}
#: Maximum number of resizes, more than any model needs: a stage of a hybrid network takes two or three.
_MOST_RESIZES = 24


@graph_pass(requires=[full_shapes_known], ensures=[outputs_alike, parameters_reached])
def resize_head(graph_module: fx.GraphModule, context: PassContext, *, adapt_head: bool) -> PassReport:
    """Record every node's shape on low-mode's inputs, and make the graph fit where it does not.

    Args:
        graph_module: The graph, which is rewired in place.
        context: The full-mode graph and low-mode's inputs.
        adapt_head: Resize a map to its full-mode size where a flatten, a position table or the like fixes it.

    Returns:
        The maps that are resized.

    Raises:
        PassError: The graph can't run on low-mode's inputs.
    """
    resized: list[fx.Node] = []
    while True:
        try:
            shapes = propagate_shapes(graph_module, *context.inputs)
            check_batch(shapes)
        except ShapeError as error:
            if is_custom_transform(error.node):
                raise failed_transform(error) from error
            refusal = unequal_branches(error, context)
            if refusal is None and (not adapt_head or len(resized) > _MOST_RESIZES):
                refusal = misfit(error, context)
            if refusal is not None:
                raise refusal from error
            resized.append(_resize(graph_module, error, context))
        else:
            record_shapes(shapes)
            return PassReport("resize_head", _drop_needless(graph_module, resized) if resized else ())


def _resize(graph_module: fx.GraphModule, error: ShapeError, context: PassContext) -> fx.Node:
    """Resize the map that leads to ``error.node`` to its full-mode size; returns the node that does it.

    A map that is flattened is resized only for that. Otherwise (a position table that is added or multiplied), the map
    is resized where it leaves the convolutions, for all its users.
    """
    flatten = find_flatten(error)
    source = flatten.all_input_nodes[0] if flatten else find_map(error)
    if source is None:
        refusal = misfit(error, context)
        useless = f"{setting('adapt_head', True)} finds no map of a convolution to resize"
        raise PassError(f"{useless}: {refusal.problem}", *refusal.ways) from error
    size = full_shape(source)[2:]
    with graph_module.graph.inserting_after(source):
        resized = graph_module.graph.call_function(
            F.interpolate, (source,), {"size": size, "mode": SMOOTH[len(size)], "align_corners": False}
        )
    if flatten:
        flatten.replace_input_with(source, resized)
    else:
        source.replace_all_uses_with(resized, delete_user_cb=lambda user: user is not resized)
        _move_sites(graph_module, source, resized)
    graph_module.recompile()
    site = flatten or source
    resized.meta["resized"] = Change(site_name(site), site.name, "low-mode map", f"resized to {sides(size)}")
    return resized


def _drop_needless(graph_module: fx.GraphModule, resized: Sequence[fx.Node]) -> tuple[Change, ...]:
    """Remove resizes that a later resize further upstream has made unnecessary; returns the changes that stay."""
    changes = []
    for node in resized:
        source = node.all_input_nodes[0]
        if node_shape(source) != node_shape(node):
            changes.append(node.meta["resized"])
            continue
        node.replace_all_uses_with(source)
        _move_sites(graph_module, node, source)
        graph_module.graph.erase_node(node)
    graph_module.recompile()
    return tuple(changes)


def _move_sites(graph_module: fx.GraphModule, before: fx.Node, after: fx.Node) -> None:
    """Update the inputs of pooled convolutions, for the check of their geometry."""
    for node in graph_module.graph.nodes:
        site = node.meta.get("unpooled")
        if site is not None and site.input is before:
            node.meta["unpooled"] = replace(site, input=after)
