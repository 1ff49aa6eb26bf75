"""Average pooling of one side as a matrix: the window of taps for each tap of the pooled kernel (§2.2.2)."""

from __future__ import annotations

import math
from functools import cache

from passes.choices import Gain
from passes.kernel_math.gains import Matrix, scaled
from passes.ratios import SideRatio, ratio_terms

#: Half-open ranges of taps, one per tap of the pooled kernel.
Windows = tuple[tuple[int, int], ...]


def paper_windows(size: int, ratio: int) -> Windows:
    """The paper's windows for one side: r taps (whole), stride r, asymmetric padding that is left out of the mean.

    The padding that makes ⌈K/r⌉ full windows is split before and after, the odd tap after: 5 → 3 with r = 2 pads one
    tap after, giving (0, 2), (2, 4), (4, 5).
    """
    count = math.ceil(size / ratio)
    before = (ratio * count - size) // 2
    starts = (index * ratio - before for index in range(count))
    return tuple((max(start, 0), min(start + ratio, size)) for start in starts)


def adaptive_windows(size: int, pooled: int) -> Windows:
    """K' balanced windows over K taps, as in adaptive average pooling: 7 → 3 gives (0, 3), (2, 5), (4, 7)."""
    return tuple((index * size // pooled, -((-(index + 1) * size) // pooled)) for index in range(pooled))


def choose_windows(size: int, pooled: int, ratio: SideRatio, adaptive: bool) -> Windows:
    """The paper's windows if r is whole and ⌈K/r⌉ of them give the pooled size K', otherwise adaptive ones."""
    p, q = ratio_terms(ratio)
    if adaptive or q > 1 or math.ceil(size / p) != pooled:
        return adaptive_windows(size, pooled)
    return paper_windows(size, p)


def tap_weights(windows: Windows, size: int, gain: Gain) -> Matrix:
    """The matrix (K', K) of one side: its rows sum to 1 (mean), its columns do (sum), or rows scaled for ``"norm"``."""
    rows = [[1.0 if low <= tap < high else 0.0 for tap in range(size)] for low, high in windows]
    if gain == "sum":
        cover = [sum(row[tap] for row in rows) for tap in range(size)]
        return tuple(tuple(value / cover[tap] for tap, value in enumerate(row)) for row in rows)
    return scaled(tuple(tuple(value / sum(row) for value in row) for row in rows), gain)


@cache
def average_rows(size: int, pooled: int, ratio: SideRatio, gain: Gain, adaptive: bool) -> Matrix:
    """The matrix (K', K) of ``average_kernel`` for one side."""
    return tap_weights(choose_windows(size, pooled, ratio, adaptive), size, gain)
