"""Learning rates that are known ahead, as pure functions of the place in a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

ONECYCLE_RISE, ONECYCLE_START, ONECYCLE_END = 0.3, 1 / 25, 1e-4  # shares of the run, and of the peak rate


def falling(lr: float, gamma: float, milestones: Sequence[int], epoch: int) -> float:
    """``lr``, times ``gamma`` for each of the ``milestones`` that ``epoch`` has reached."""
    return lr * gamma ** sum(epoch >= milestone for milestone in milestones)


def cosine(lr: float, passed: float) -> float:
    """From ``lr`` to 0 along half a cosine; passed: share of the run in [0, 1]."""
    return lr * (1 + math.cos(math.pi * passed)) / 2


def onecycle(lr: float, passed: float) -> float:
    """Up to ``lr`` in the first 30 % of the run, and down to nearly 0; passed: share of the run in [0, 1]."""
    if passed < ONECYCLE_RISE:
        return lr * _between(ONECYCLE_START, 1, passed / ONECYCLE_RISE)
    return lr * _between(1, ONECYCLE_END, (passed - ONECYCLE_RISE) / (1 - ONECYCLE_RISE))


def warmed_up(rate: float, warmup_epochs: int, passed: float) -> float:
    """``rate`` on a ramp over the first ``warmup_epochs``, of which ``passed`` are over.

    Never 0: the first step of a warm-up moves the weights too.
    """
    if passed < warmup_epochs:
        rate *= max(passed / warmup_epochs, 1 / (100 * warmup_epochs))
    return rate


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
