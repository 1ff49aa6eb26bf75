"""``lr_milestones``: the epochs at which a scheduler changes the learning rate, where held epochs start (§3.1)."""

from __future__ import annotations

import copy
import math
import warnings
from typing import TYPE_CHECKING, Any

from lowmode_fx.utils.validation import wrong_type

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler

__all__ = ["lr_milestones"]


def lr_milestones(scheduler: LRScheduler | Any, epochs: int) -> tuple[int, ...]:
    """Return the epochs that begin with a new learning rate, for a schedule's ``milestones``.

    Args:
        scheduler: A learning-rate scheduler that steps once per epoch, torch's or timm's. A copy of it runs ahead; the
            scheduler and its optimizer stay as they are.
        epochs: Number of epochs of the run.

    Returns:
        The epochs, 0 first.

    Raises:
        ValueError: The rate changes in more than half of the epochs (cosine, linear), so that every epoch would be
            held; it follows the loss, which is not known in advance; or the scheduler has taken steps, so that a
            resumed run would hold other epochs than the first run.
    """
    from torch.optim import lr_scheduler

    name = type(scheduler).__name__
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) or name == "PlateauLRScheduler":
        raise ValueError(f"scheduler {name} follows the loss and can't run ahead; give milestones by hand, or none")
    if not getattr(scheduler, "t_in_epochs", True):
        raise ValueError(
            f"scheduler {name} counts updates, not epochs; make it with t_in_epochs=True, or give milestones"
        )
    taken = getattr(scheduler, "last_epoch", 0)
    if taken > 0:
        raise ValueError(
            f"scheduler {name} has taken {taken} steps, so its earlier changes are unknown; call lr_milestones "
            "before it loads a state dict"
        )
    optimizer = getattr(scheduler, "optimizer", None)
    if optimizer is None:
        raise wrong_type("scheduler", scheduler, "a learning-rate scheduler, torch's or timm's")
    shared = {id(parameter): parameter for group in optimizer.param_groups for parameter in group["params"]}
    ahead = copy.deepcopy(scheduler, {**shared, id(optimizer.state): {}})
    rates = [_rates(ahead)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the copy's optimizer takes no steps, of which torch warns
        for epoch in range(1, epochs):
            ahead.step() if isinstance(ahead, lr_scheduler.LRScheduler) else ahead.step(
                epoch
            )  # timm's schedulers take the epoch
            rates.append(_rates(ahead))
    changed = [epoch for epoch in range(1, epochs) if not _alike(rates[epoch - 1], rates[epoch])]
    if len(changed) > epochs / 2:
        raise ValueError(
            f"scheduler {name} changes the learning rate in {len(changed)} of {epochs} epochs, and each "
            "change would be held; give milestones by hand, such as milestones=(0,)"
        )
    return (0, *changed)


def _rates(scheduler: Any) -> list[float]:
    return [float(group["lr"]) for group in scheduler.optimizer.param_groups]


def _alike(before: list[float], after: list[float]) -> bool:
    return all(math.isclose(ours, theirs, rel_tol=1e-9) for ours, theirs in zip(before, after, strict=True))
