"""Whether pooled kernels save enough for a ladder, whose full tail is short."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lowmode_fx.tuning.candidate import Candidate

#: Share of the cost of progress that pooled kernels have to save beside kept ones. Where they saved less (5×5 kernels,
#: a quarter), ladders with them ended below those that keep kernels, though trial runs promised more: what kernels
#: don't learn while they are pooled shows at the end. With 13×13 kernels they save more than half, and keep their
#: promise (docs/benchmarks/accuracy.md, docs/benchmarks/kernels.md). After a long full tail they pay from less on, so a
#: plan of one low mode isn't concerned.
LEAST_SAVED = 1 / 3


def worth_pooling(tried: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with kernels kept, and those with pooled ones that save enough on the same images.

    ``tried``: candidates with trial runs. Those without a counterpart with kernels kept are left in, and all of them if
    none would be.
    """
    kept = _kept(tried)
    found = [
        each for each in tried if not each.config.pools_kernels or _saves_enough(each, each.cost_of_progress, kept)
    ]
    return found or list(tried)


def may_be_worth(candidate: Candidate, tried: Sequence[Candidate]) -> bool:
    """Whether a candidate without trial runs can save enough: it would if it gained as much as full-mode."""
    return not candidate.config.pools_kernels or _saves_enough(candidate, candidate.cost, _kept(tried))


def _saves_enough(candidate: Candidate, cost: float, kept: Mapping[object, float]) -> bool:
    return cost <= (1 - LEAST_SAVED) * kept.get(_images(candidate), math.inf)


def _kept(tried: Sequence[Candidate]) -> dict[object, float]:
    """The cost of progress with kernels kept, by the images of the mode."""
    kept: dict[object, float] = {None: 1.0}  # whole images with kernels kept are full-mode
    for each in tried:
        if not each.config.pools_kernels:
            kept[_images(each)] = min(each.cost_of_progress, kept.get(_images(each), math.inf))
    return kept


def _images(candidate: Candidate) -> object:
    """What the mode's images are: their ratio, or ``None`` if they are whole."""
    return candidate.config.ratio if candidate.config.downsample_input else None
