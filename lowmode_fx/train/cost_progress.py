"""How far a run has come, in cost: what a learning rate may follow instead of the number of steps."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from lowmode_fx.counting.forward import scripted_part
from lowmode_fx.counting.step import count_forward_macs
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.nets import as_net
from lowmode_fx.runtime.schedules import StatefulSchedule
from lowmode_fx.runtime.schedules.base import DrawnSchedule
from lowmode_fx.utils.validation import as_count, as_number, wrong_type
from passes.spelling import setting

#: Images of a full batch, by which the larger ones of low steps are weighed.
_FULL_BATCH = 1 << 16


def cost_progress(
    net: LowModeModel, epochs: int, steps_per_epoch: int, costs: Mapping[str, float] | None = None
) -> tuple[float, ...]:
    """Return the share of a run's cost that has passed at the start of each epoch, and at the end of the last.

    Low epochs are cheap, so a run that starts low has passed little of its cost when it has taken most of its steps. A
    learning rate that falls over the cost leaves more of itself to the full epochs at the end.

    Args:
        net: The net; its schedule is known ahead.
        epochs: Number of epochs of the run.
        steps_per_epoch: Optimizer steps of an epoch.
        costs: Cost of an image in each low mode divided by one in full-mode, by the names of the modes
            (``{"r2": 0.3}``); by default the ratio of their macs.

    Returns:
        ``epochs + 1`` values, which rise from 0 to 1.

    Raises:
        ValueError: A count is below 1, a cost is missing or not positive, the schedule decides during training, or the
            model's macs can't be counted.
        TypeError: An argument has the wrong type.
    """
    as_net(net)
    epochs, steps = as_count("epochs", epochs, 1), as_count("steps_per_epoch", steps_per_epoch, 1)
    if isinstance(net.schedule, StatefulSchedule):
        raise ValueError(
            f"{type(net.schedule).__name__} chooses modes during training, so the cost of epochs to come is not known; "
            f"let the learning rate follow the steps, {setting('lr_over', 'steps')}"
        )
    known = _by_macs(net) if costs is None else _checked(net, costs)
    spent = [
        math.fsum(share * known[mode] for mode, share in _shares(net, epoch, steps).items()) for epoch in range(epochs)
    ]
    total = math.fsum(spent)
    return (*(passed / total for passed in itertools.accumulate(spent[:-1], initial=0.0)), 1.0)


def passed_share(progress: Sequence[float], epoch: int, share: float) -> float:
    """The share of the cost in [0, 1] that has passed in ``epoch``, of whose steps ``share`` have been taken."""
    if epoch >= len(progress) - 1:
        return 1.0
    return progress[epoch] + (progress[epoch + 1] - progress[epoch]) * share


class UncountedModelError(ValueError):
    """The macs of a model can't be counted."""


def _by_macs(net: LowModeModel) -> dict[Mode, float]:
    scripted = scripted_part(net.ladder.model)
    if scripted is not None:
        raise UncountedModelError(f"{scripted} is TorchScript, whose macs can't be counted; give costs")
    full, *low = count_forward_macs(net.ladder)
    if not full:
        raise UncountedModelError("the model has no macs; give costs")
    return {**{rung.mode: macs / full for rung, macs in zip(net.ladder.rungs, low, strict=True)}, Mode.FULL: 1.0}


def _checked(net: LowModeModel, costs: Mapping[str, float]) -> dict[Mode, float]:
    if not isinstance(costs, Mapping):
        raise wrong_type("costs", costs, "a mapping from modes to numbers, such as {'r2': 0.3}")
    names = [str(rung.mode) for rung in net.ladder.rungs]
    for name in [*names, *costs]:
        if name not in costs:
            raise ValueError(f"costs has no {name!r}; give a cost for each low mode, such as {{{name!r}: 0.3}}")
        if name not in names:
            raise ValueError(f"costs[{name!r}] is no low mode's; the low modes are {', '.join(names)}")
    found = {
        rung.mode: as_number(f"costs[{str(rung.mode)!r}]", costs[str(rung.mode)], above=0) for rung in net.ladder.rungs
    }
    return {**found, Mode.FULL: 1.0}


def _shares(net: LowModeModel, epoch: int, steps: int) -> dict[Mode, float]:
    """The share of each mode in an epoch's images: as expected, or counted where a schedule draws nothing."""
    shares: dict[Mode, float]
    if isinstance(net.schedule, DrawnSchedule):
        shares = {net.ladder.resolve(mode): share for mode, share in net.schedule.mode_probabilities(epoch).items()}
    else:
        shares = dict(Counter(net.mode_at(step, epoch) for step in range(epoch * steps, (epoch + 1) * steps)))
    images = {mode: share * net.planned_batch_size(mode, _FULL_BATCH) for mode, share in shares.items()}
    total = math.fsum(images.values())
    return {mode: count / total for mode, count in images.items()}
