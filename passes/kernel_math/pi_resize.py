"""The pseudo-inverse resize of a kernel, as a matrix: by least squares over the kernel's responses to whole maps.

FlexiViT (Beyer et al., CVPR 2023, §3.4) resizes a patch embedding so that its response to a resized patch matches that
to the patch. Here the same is required of a convolution: let y be the map x blurred and cut to every r-th pixel, like
images. Of all kernels of K' taps, Ŵ is the one whose response to y is nearest, in mean square, to the response of W to
x, blurred and cut in the same way. On one side, with tap k of W at pixel d·(k − (K−1)/2) and tap j of Ŵ at r·d·(j −
(K'−1)/2),

    Ŵ = G⁻¹ R W,  G[i, j] = cov(y at tap i, y at tap j),  R[j, k] = cov(y at tap j, blurred x at tap k).

Maps are modelled like natural images, with a covariance that falls by ρ per pixel, over any level: so the response to a
constant map is exact, and the sum of the taps is preserved. Since this covariance is separable, the least squares of
all sides together are those of one side after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from passes.blur import blur_weights
from passes.kernel_math.gains import Matrix
from passes.ratios import SideRatio, ratio_terms

#: The correlation of neighbouring pixels.
NEIGHBOURS = 0.9


@cache
def pi_resize_rows(size: int, pooled: int, ratio: SideRatio, dilation: int = 1) -> Matrix:
    """The matrix (K', K) of ``pi_resize_kernel`` for one side: its columns sum to 1."""
    p, q = ratio_terms(ratio)
    low = [dilation * p / q * (index - (pooled - 1) / 2) for index in range(pooled)]
    full = [dilation * (tap - (size - 1) / 2) for tap in range(size)]
    blur = blur_weights(p / q)
    among = [[_covariance(blur, a - b) for b in low] for a in low]
    columns = [[_covariance(blur, a - b) for a in low] for b in full]
    # Of the solutions of G m = R's column, the one with entries that sum to 1, for maps of any level.
    level, *solved = _solve(among, [[1.0] * pooled, *columns])
    total = math.fsum(level)
    taps = [[m + (1 - math.fsum(column)) / total * g for m, g in zip(column, level, strict=True)] for column in solved]
    return tuple(zip(*taps, strict=True))


def _covariance(blur: Sequence[float], distance: float) -> float:
    """Covariance of two pixels, ``distance`` apart, of a blurred map."""
    pairs = ((a * b, i - j) for i, a in enumerate(blur) for j, b in enumerate(blur))
    return math.fsum(weight * NEIGHBOURS ** abs(distance + shift) for weight, shift in pairs)


def _solve(matrix: Sequence[Sequence[float]], columns: Sequence[Sequence[float]]) -> list[list[float]]:
    """The solution of a positive definite system for each column, by Gaussian elimination."""
    count = len(matrix)
    rows = [[*row, *(column[index] for column in columns)] for index, row in enumerate(matrix)]
    for pivot in range(count):
        rows[pivot] = [value / rows[pivot][pivot] for value in rows[pivot]]
        for other in range(count):
            if other != pivot:
                factor = rows[other][pivot]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[pivot], strict=True)]
    return [[row[count + index] for row in rows] for index in range(len(columns))]
