"""Graph → graph: each pass rewires a ``torch.fx.GraphModule`` in place and reports what it did. Knows torch only."""

from passes.adapt_heads import adapt_heads
from passes.base import Change, GraphPass, PassContext, PassReport, Skip, graph_pass, run_passes
from passes.binding import bind_graph
from passes.drop_maxpools import drop_maxpools
from passes.errors import PassError
from passes.isolate_batchnorm import isolate_batchnorm
from passes.pool_weights import pool_weights
from passes.resize_head import resize_head
from passes.restore_output import restore_output
from passes.set_strides import set_strides
from passes.shapes import ShapeError, propagate_shapes

__all__ = [
    "Change",
    "GraphPass",
    "PassContext",
    "PassError",
    "PassReport",
    "ShapeError",
    "Skip",
    "adapt_heads",
    "bind_graph",
    "drop_maxpools",
    "graph_pass",
    "isolate_batchnorm",
    "pool_weights",
    "propagate_shapes",
    "resize_head",
    "restore_output",
    "run_passes",
    "set_strides",
]
