"""Epochs in which a scheduler changes the learning rate: where a schedule's holds begin (§3.1)."""

from __future__ import annotations

import copy
import math
import warnings

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

__all__ = ["lr_milestones"]


def lr_milestones(scheduler: LRScheduler, epochs: int) -> tuple[int, ...]:
    """The epochs, 0 first, that begin with another learning rate than the one before, for a schedule's ``milestones``.

    ``scheduler`` is stepped once an epoch, as torch's are; a copy of it is run ahead for ``epochs`` epochs, and the
    scheduler and its optimizer stay as they are. It may already have taken steps.

    Raises ``ValueError`` for a rate that changes in more than half of the epochs (cosine, linear): every epoch would be
    held; and for one that follows the loss, which nobody knows ahead.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError("ReduceLROnPlateau follows the loss, and can't be run ahead; give milestones by hand, or none")
    optimizer = scheduler.optimizer
    shared = {id(parameter): parameter for group in optimizer.param_groups for parameter in group["params"]}
    ahead = copy.deepcopy(scheduler, {**shared, id(optimizer.state): {}})
    rates = [_rates(ahead)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the copy's optimizer takes no steps
        for _ in range(epochs - 1 - ahead.last_epoch):
            ahead.step()
            rates.append(_rates(ahead))
    first = scheduler.last_epoch
    changed = [first + place for place in range(1, len(rates)) if not _alike(rates[place - 1], rates[place])]
    if len(changed) > len(rates) / 2:
        raise ValueError(
            f"{type(scheduler).__name__} changes the learning rate in {len(changed)} of {len(rates)} epochs, and each "
            "change would be held; give milestones by hand, such as milestones=(0,)"
        )
    return (0, *(epoch for epoch in changed if epoch > 0))


def _rates(scheduler: LRScheduler) -> list[float]:
    return [float(group["lr"]) for group in scheduler.optimizer.param_groups]


def _alike(before: list[float], after: list[float]) -> bool:
    return all(math.isclose(ours, theirs, rel_tol=1e-9) for ours, theirs in zip(before, after, strict=True))
