"""A pass over the training graph of a compiled block: the mask of its last ReLU is not saved for the backward pass.

Where a residual block ends in a ReLU, its backward pass needs to know where the result is above 0. torch's partitioner
counts bytes, and a mask of booleans has a quarter of the result's. But the result exists anyhow, for the next block
takes it, so the mask saves nothing; and on a CPU with AVX-512, reading and writing masks takes longer than all else in
a block that is not a convolution. Compiled as a whole, or uncompiled, a model saves the result.
"""

from __future__ import annotations

from torch import fx, ops
from torch.utils.checkpoint import CheckpointPolicy

_SAME = (ops.aten.alias.default, ops.aten.detach.default)


def recompute_masks(graph: fx.Graph) -> None:
    """Mark what a ReLU's backward compares, if the graph of forward and backward returns it: to be computed again."""
    results = {node for node in graph.output_node().all_input_nodes if node.target is ops.aten.relu.default}
    for node in graph.nodes:
        if results.isdisjoint(node.all_input_nodes):
            continue
        if node.target in _SAME:
            results.add(node)
        if node.target in (*_SAME, ops.aten.le.Scalar):
            node.meta["recompute"] = CheckpointPolicy.PREFER_RECOMPUTE
