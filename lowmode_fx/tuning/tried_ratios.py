"""The ratios that the tuner tries; the command line reads their range without importing torch."""

from __future__ import annotations

from fractions import Fraction

from passes.ratios import RatioLike

#: The default ratios.
RATIOS: tuple[RatioLike, ...] = (2, 1)
#: Those of the plain ramps, by their number of modes with full-mode: a plan of that many modes tries them too.
RAMP_RATIOS: dict[int, tuple[RatioLike, ...]] = {3: (2, Fraction(4, 3)), 4: (Fraction(8, 3), 2, Fraction(4, 3))}
LARGEST_RATIO = 4
#: Above this ratio, kernels are pooled on request only: trial runs rate pooled kernels of r = 8/3 like kept ones, but
#: a whole run that began with them ended 2 to 6 points lower (docs/benchmarks/accuracy.md).
MOST_POOLED = 2


def default_ratios(modes: int) -> tuple[RatioLike, ...]:
    """The ratios to try for a plan of up to ``modes`` modes, full-mode included, in this order."""
    of_ramps = (ratio for count, ratios in RAMP_RATIOS.items() if count <= modes for ratio in ratios)
    return tuple(dict.fromkeys((*RATIOS, *of_ramps)))
