"""A learning rate that falls over a run's cost, as one of torch's schedulers."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.optimizers import check_trains
from lowmode_fx.runtime.schedules import LadderSchedule, Schedule
from lowmode_fx.train.cost_progress import cost_progress, passed_share
from lowmode_fx.train.pace import Pace
from lowmode_fx.train.rates import cosine, warmed_up
from lowmode_fx.utils.validation import as_count

#: How often schedulers step: not a part of their state.
_PACES: weakref.WeakKeyDictionary[CostCosineLR, Pace] = weakref.WeakKeyDictionary()


class CostCosineLR(LambdaLR):
    """Half a cosine from each group's rate to 0, over the cost of the run instead of its steps.

    Low epochs are cheap, so the rate falls slowly in them and is still high when the full epochs begin. Call ``step()``
    after each optimizer step. With low-mode never chosen it is a plain cosine. It saves, loads and
    pickles like torch's own schedulers.

    Args:
        optimizer: The optimizer, whose groups have their initial rates.
        net: The net; its schedule is known ahead.
        epochs: Number of epochs of the run.
        steps_per_epoch: Optimizer steps of an epoch; where batches accumulate, the batches over how many make a step.
        warmup_epochs: Number of epochs in which the rate also rises from 0 along a line, over their steps.
        costs: Cost of an image in each low mode divided by one in full-mode, by the names of the modes; by default the
            ratio of their macs.
        last_epoch: Number of steps that have been taken, less one: -1 for a new run.

    Raises:
        ValueError: A count is too small, a cost is missing or not positive, the schedule decides during training, low
            steps have larger batches, the model's macs can't be counted, or the optimizer has none of the net's
            parameters.
        TypeError: An argument has the wrong type.

    Source: the cosine is that of Loshchilov and Hutter (2017, https://arxiv.org/abs/1608.03983), without restarts.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        net: LowModeModel,
        epochs: int,
        steps_per_epoch: int,
        *,
        warmup_epochs: int = 0,
        costs: Mapping[str, float] | None = None,
        last_epoch: int = -1,
    ) -> None:
        warm = as_count("warmup_epochs", warmup_epochs, 0)
        steps = as_count("steps_per_epoch", steps_per_epoch, 1)
        if isinstance(net, LowModeModel) and net.batches_grow:
            raise ValueError(
                "low steps have larger batches, so epochs differ in their steps; follow cost_progress with a scheduler "
                "that steps once an epoch"
            )
        progress = cost_progress(net, epochs, steps, costs)
        check_trains(optimizer, net.parameters())
        planned = _planned_epochs(net.schedule)
        if planned not in (None, epochs):
            warnings.warn(
                f"epochs={epochs}, but the net's LadderSchedule has {planned}, so the rate doesn't end with the "
                "ladder; give both the epochs of the run",
                stacklevel=2,
            )
        net.epoch_has(steps)
        super().__init__(optimizer, partial(_factor, progress, steps, warm), last_epoch)
        _PACES[self] = Pace.of(net, steps, epochs if planned in (None, epochs) else None)

    def step(self, epoch: int | None = None) -> None:
        """Set the rates for the next optimizer step."""
        super().step(epoch)
        complaint = _PACES[self].complaint(self.last_epoch) if self in _PACES else ""
        if complaint:
            del _PACES[self]
            warnings.warn(complaint, stacklevel=2)


def _planned_epochs(schedule: Schedule) -> int | None:
    """The length of a run that a ladder's schedule was made for; ``None`` if it doesn't say."""
    if not isinstance(schedule, LadderSchedule) or schedule.epochs is None:
        return None
    return sum(schedule.epochs)


def _factor(progress: Sequence[float], steps: int, warmup_epochs: int, step: int) -> float:
    """What the initial rates are multiplied by at a step, from 0 on."""
    epoch, place = divmod(step, steps)
    share = place / steps
    return warmed_up(cosine(1.0, passed_share(progress, epoch, share)), warmup_epochs, epoch + share)
