"""The ratios that the tuner tries; the command line reads their range without importing torch."""

from __future__ import annotations

from fractions import Fraction

from passes.ratios import RatioLike

#: The default ratios, and those that are added for a ladder.
RATIOS: tuple[RatioLike, ...] = (2, 1)
LADDER_RATIOS: tuple[RatioLike, ...] = (Fraction(4, 3),)
LARGEST_RATIO = 4
