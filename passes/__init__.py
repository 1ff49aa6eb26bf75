"""Graph passes: each rewires a ``torch.fx.GraphModule`` in place and reports what it did. Depends on torch only."""

from typing import TYPE_CHECKING

from passes.lazy import import_lazily

if TYPE_CHECKING:
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

# The module of each name: modules that don't need torch, such as ``passes.ratios``, can be imported without it.
import_lazily(
    __name__,
    {
        "passes.adapt_heads": ("adapt_heads",),
        "passes.base": ("Change", "GraphPass", "PassContext", "PassReport", "Skip", "graph_pass", "run_passes"),
        "passes.binding": ("bind_graph",),
        "passes.drop_maxpools": ("drop_maxpools",),
        "passes.errors": ("PassError",),
        "passes.isolate_batchnorm": ("isolate_batchnorm",),
        "passes.pool_weights": ("pool_weights",),
        "passes.resize_head": ("resize_head",),
        "passes.restore_output": ("restore_output",),
        "passes.set_strides": ("set_strides",),
        "passes.shapes": ("ShapeError", "propagate_shapes"),
    },
)
