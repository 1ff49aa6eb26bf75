"""Low steps with more images: how many, what as many images then cost, and the learning rate of a trial run."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.batch_growth import BatchGrowth, LrRule, read_batch_growth
from lowmode_fx.runtime.schedules.chosen import ChosenMode
from lowmode_fx.tuning.batches import Call, joined

#: What batches are made of by default: as many images in a low step as in a full one.
SAME = BatchGrowth({})
#: The share of a low step's cost that a larger batch has to save for as many images; less is within the noise of
#: prices, and fewer steps teach less.
LEAST_SAVED = 0.1


class JoinError(ValueError):
    """Batches of a loader that can't be joined."""


TriedMultiplier = float | Literal["pixels"]


def growth_of(pair: ModePair, multiplier: TriedMultiplier, lr_rule: LrRule) -> BatchGrowth:
    """The growth of a pair's low steps; ``"pixels"``: as many more images as they have fewer pixels."""
    return read_batch_growth(pair, ChosenMode(), multiplier, lr_rule)


def times(growth: BatchGrowth) -> float:
    """Images of a low step over those of a full one."""
    return growth.multiplier(Mode.LOW)


def grown_batch(batches: Sequence[Call], growth: BatchGrowth) -> Call | None:
    """A low step's larger batch, of the images of ``batches``, again if necessary; ``None`` if they can't be joined."""
    size = growth.size(Mode.LOW, batches[0].images)
    return joined(list(itertools.islice(itertools.cycle(batches), math.ceil(times(growth)))), size)


@contextlib.contextmanager
def scaled_rate(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Inside, learning rates are multiplied by ``factor``."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups if factor != 1 else ():
        group["lr"] = group["lr"] * factor
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
