"""Give low-mode's maps their full-mode size at the output, so that a loss on full-size targets works unchanged."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from passes.base import Change, PassReport
from passes.errors import PassError
from passes.shapes import Shape, ShapeTree

_SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


def restore_output(graph_module: fx.GraphModule, *, full_output: ShapeTree, low_output: ShapeTree) -> PassReport:
    """Interpolate every map ``(N, C, *S)`` that the graph returns smaller than full-mode does to full-mode's sizes.

    ``full_output``, ``low_output``: the shapes that the graphs return. Raises ``PassError`` where
    their structures differ.
    """
    expected, structure = tree_flatten(full_output)
    found, low_structure = tree_flatten(low_output)
    if structure != low_structure:
        raise PassError("restore_output: low-mode returns another structure than full-mode; leave it False")
    sizes = [_sizes(ours, theirs) for ours, theirs in zip(expected, found, strict=True)]
    changes = tuple(
        Change(f"output {index}", "output", "×".join(map(str, found[index][2:])), "×".join(map(str, size)))
        for index, size in enumerate(sizes)
        if size
    )
    if changes:

        def restore(value: Any) -> Any:
            leaves, spec = tree_flatten(value)
            return tree_unflatten([_resize(leaf, size) for leaf, size in zip(leaves, sizes, strict=True)], spec)

        graph = graph_module.graph
        output = next(node for node in graph.nodes if node.op == "output")
        with graph.inserting_before(output):
            output.args = (graph.call_function(restore, (output.args[0],)),)
        graph_module.recompile()
    return PassReport("restore_output", changes)


def _sizes(full: Any, low: Any) -> tuple[int, ...] | None:
    if not (isinstance(full, Shape) and isinstance(low, Shape)) or len(full) != len(low) or not 3 <= len(full) <= 5:
        return None
    return tuple(full[2:]) if full[:2] == low[:2] and full[2:] != low[2:] else None


def _resize(leaf: Any, size: tuple[int, ...] | None) -> Any:
    if size is None:
        return leaf
    assert isinstance(leaf, Tensor)
    return F.interpolate(leaf, size=size, mode=_SMOOTH[len(size)], align_corners=False)
