"""Antialiased cubic interpolation of a kernel as if it were an image, as a matrix."""

from __future__ import annotations

from functools import cache

from passes.choices import Gain
from passes.kernel_math.gains import Matrix, scaled

#: Parameter of Keys' kernel, as in Pillow and ``F.interpolate(antialias=True)``.
_A = -0.5


@cache
def bicubic_rows(size: int, pooled: int, gain: Gain) -> Matrix:
    """The matrix (K', K) of ``bicubic_kernel`` for one side: ``F.interpolate(mode="bicubic", antialias=True)``'s."""
    scale = size / pooled
    rows = []
    for index in range(pooled):
        centre = (index + 0.5) * scale - 0.5
        weights = [_cubic((tap - centre) / scale) for tap in range(size)]
        rows.append(tuple(weight / sum(weights) for weight in weights))
    return scaled(tuple(rows), gain)


def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return ((_A + 2) * x - (_A + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * _A if x < 2 else 0.0
