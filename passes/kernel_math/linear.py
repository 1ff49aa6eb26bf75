"""Linear interpolation between the taps of the pooled kernel, as a matrix."""

from __future__ import annotations

from functools import cache

from passes.kernel_math.gains import Matrix
from passes.ratios import SideRatio, ratio_terms


@cache
def linear_rows(size: int, pooled: int, ratio: SideRatio) -> Matrix:
    """The matrix (K', K) of ``linear_kernel`` for one side: its columns sum to 1."""
    p, q = ratio_terms(ratio)
    columns = []
    for tap in range(size):
        # Multiplied by q first, so that a tap at a pooled tap's place is exactly there, and no other gets a share.
        place = min(max((tap - (size - 1) / 2) * q / p + (pooled - 1) / 2, 0.0), pooled - 1.0)
        columns.append([max(0.0, 1 - abs(place - index)) for index in range(pooled)])
    return tuple(zip(*columns, strict=True))
