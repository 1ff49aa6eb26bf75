"""The ratios that the tuner tries; a command line tells their range without importing torch."""

from __future__ import annotations

from fractions import Fraction

from passes.ratios import RatioLike

#: What is tried where nothing is said, and what is tried beside for a ladder.
RATIOS: tuple[RatioLike, ...] = (2, 1)
LADDER_RATIOS: tuple[RatioLike, ...] = (Fraction(4, 3),)
LARGEST_RATIO = 4
