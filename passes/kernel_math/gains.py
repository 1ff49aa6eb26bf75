"""What a pooled kernel preserves of the full one, if its transform leaves that open."""

from __future__ import annotations

import math

from passes.choices import Gain

#: The rows of a matrix (K', K), which takes the K taps of one side to K'.
Matrix = tuple[tuple[float, ...], ...]


def scaled(rows: Matrix, gain: Gain) -> Matrix:
    """The matrix (K', K) of one side, whose rows sum to 1, scaled for ``gain``.

    ``"mean"``: preserves a constant kernel. ``"sum"``: preserves its sum, times K / K'. ``"norm"``: on average
    preserves the sum of squares of a kernel with independent taps, so that the response to a map without structure is
    as strong.
    """
    if gain == "mean":
        return rows
    size, pooled = len(rows[0]), len(rows)
    if gain == "sum":
        factor = size / pooled
    else:
        factor = math.sqrt(size / math.fsum(value * value for row in rows for value in row))
    return tuple(tuple(value * factor for value in row) for row in rows)
