"""The named choices of the passes, which a command line tells without importing torch."""

from __future__ import annotations

from typing import Literal

#: How K' comes from K / r; see ``passes.kernel_math.pooled_size``.
Rounding = Literal["ceil", "floor", "cover"]
#: What pooling preserves: the mean of the taps, or their sum.
Gain = Literal["mean", "sum", "norm"]
#: Kernel transforms; see ``passes.pooling_rule``.
NamedTransform = Literal["avg", "adaptive", "center", "linear", "bicubic", "pi_resize"]
#: Named sets of convolutions; see ``passes.pool_weights``.
NamedConvs = Literal["dense", "all", "large"]
#: Named sets of max pools; see ``passes.drop_maxpools``.
NamedMaxPools = Literal["none", "stem", "all"]
