"""Graph → graph: each pass rewires a ``torch.fx.GraphModule`` in place and reports what it did. Knows torch only."""

from .adapt_heads import adapt_heads
from .base import Change, GraphPass, PassReport, Skip, run_passes
from .binding import bind_graph
from .drop_maxpools import drop_maxpools
from .errors import PassError
from .isolate_batchnorm import isolate_batchnorm
from .pool_weights import pool_weights
from .restore_output import restore_output
from .set_strides import set_strides
from .shapes import ShapeError, propagate_shapes

__all__ = [
    "Change",
    "GraphPass",
    "PassError",
    "PassReport",
    "ShapeError",
    "Skip",
    "adapt_heads",
    "bind_graph",
    "drop_maxpools",
    "isolate_batchnorm",
    "pool_weights",
    "propagate_shapes",
    "restore_output",
    "run_passes",
    "set_strides",
]
