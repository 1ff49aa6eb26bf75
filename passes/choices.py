"""The named choices of the passes; the command line reads them without importing torch."""

from __future__ import annotations

from typing import Literal

#: How K / r is rounded to K'; see ``passes.kernel_math.pooled_size``.
Rounding = Literal["ceil", "floor", "cover"]
#: What a transform preserves of the taps: their mean, sum or, on average, norm; see ``passes.kernel_math.gains``.
Gain = Literal["mean", "sum", "norm"]
#: Kernel transforms; see ``passes.pooling_rule``.
NamedTransform = Literal["avg", "adaptive", "center", "linear", "bicubic", "pi_resize"]
#: Named sets of convolutions; see ``passes.pooling_rule``.
NamedConvs = Literal["dense", "all", "large"]
#: Named sets of max pools; see ``passes.drop_maxpools``.
NamedMaxPools = Literal["none", "stem", "all"]
