"""The Gaussian blur before decimation, as weights of one side (§2.2.1)."""

from __future__ import annotations

import math


def blur_reach(ratio: float) -> tuple[float, int]:
    """σ in pixels, ``sqrt(ratio**2 - 1) / 2``, and the radius of the blur in whole pixels, ⌈3σ⌉."""
    sigma = 0.5 * math.sqrt(ratio**2 - 1)
    return sigma, math.ceil(3 * sigma)


def blur_weights(ratio: float, offset: float = 0.0) -> list[float]:
    """The weights, which sum to 1, for a place ``offset`` pixels (from 0, below 1) after an input pixel.

    They belong to the input pixels up to ⌈3σ⌉ away, in order: an odd number for offset 0, otherwise an even one.
    """
    sigma, radius = blur_reach(ratio)
    if radius == 0:
        return [1.0]
    first = -radius if offset == 0 else 1 - radius
    weights = [math.exp(-0.5 * ((place - offset) / sigma) ** 2) for place in range(first, radius + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
