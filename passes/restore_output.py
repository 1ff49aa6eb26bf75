"""Resize low-mode's output maps to their full-mode size, so that a loss on full-size targets works unchanged."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from passes.base import Change, PassContext, PassReport, graph_pass
from passes.checks import output_node, outputs_alike
from passes.errors import PassError, set_option
from passes.find_maps import is_map
from passes.resize_head import SMOOTH
from passes.shapes import Shape, node_shape, record_shape
from passes.spelling import setting
from passes.trees import tree_flatten, tree_unflatten
from passes.wording import sides


@graph_pass(requires=[outputs_alike])
def restore_output(graph_module: fx.GraphModule, context: PassContext) -> PassReport:
    """Interpolate every output map ``(N, C, *S)`` that is smaller than full-mode's to full-mode's size.

    Args:
        graph_module: The graph, which is rewired in place.
        context: The full-mode graph, whose shapes are known.

    Returns:
        The maps that are resized.

    Raises:
        PassError: The modes return different structures.
    """
    graph = graph_module.graph
    output = output_node(graph)
    expected, structure = tree_flatten(node_shape(output_node(context.full.graph)))
    found, low_structure = tree_flatten(node_shape(output))
    if structure != low_structure:
        raise PassError(
            f"{setting('restore_output')}: low-mode returns another structure than full-mode",
            set_option("restore_output", False, "to return its maps as they are"),
        )
    sizes = [_sizes(ours, theirs) for ours, theirs in zip(expected, found, strict=True)]
    changes = tuple(
        Change(f"output {index}", "output", sides(found[index][2:]), sides(size))
        for index, size in enumerate(sizes)
        if size
    )
    if changes:

        def restore(value: Any) -> Any:
            leaves, spec = tree_flatten(value)
            return tree_unflatten([_resize(leaf, size) for leaf, size in zip(leaves, sizes, strict=True)], spec)

        with graph.inserting_before(output):
            restored = graph.call_function(restore, (output.args[0],))
        output.args = (restored,)
        leaves = [Shape((*shape[:2], *size)) if size else shape for shape, size in zip(found, sizes, strict=True)]
        for node in (restored, output):
            record_shape(node, tree_unflatten(leaves, low_structure))
    return PassReport("restore_output", changes)


def _sizes(full: Any, low: Any) -> tuple[int, ...] | None:
    if not (is_map(full) and is_map(low)) or len(full) != len(low):
        return None
    return tuple(full[2:]) if full[:2] == low[:2] and full[2:] != low[2:] else None


def _resize(leaf: Any, size: tuple[int, ...] | None) -> Any:
    if size is None:
        return leaf
    assert isinstance(leaf, Tensor)
    return F.interpolate(leaf, size=size, mode=SMOOTH[len(size)], align_corners=False)
