"""Plans of a run, as lists of the mode of each step: full-mode, ladders, and the schedules of other packages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lowmode_fx import BernoulliSchedule, LadderSchedule, LowModeConfig, Mode

FULL = "full"
SIDE = 32
#: Smaller images, kernels kept, by the name of their mode; the first is r = 2, the third r = 4/3.
SIDES = {f"s{side}": side for side in (16, 20, 24, 28)}
#: Their configurations.
KEPT: dict[str, LowModeConfig] = {
    name: LowModeConfig(ratio=SIDE / side, kernel_ratio=1) for name, side in SIDES.items()
}
#: A smaller rung still: r = 8/3.
SMALLEST = "s12"
SMALLEST_CONFIG = LowModeConfig(ratio="8/3", kernel_ratio=1)
#: Shares of a ladder's cost: r = 2, r = 4/3, full.
LADDER = {"s16": 0.5, "s24": 0.3, FULL: 0.2}
Costs = Mapping[str, float]


@dataclass(frozen=True)
class Arm:
    """One way to train. ``modes(steps of an epoch, costs, seed)`` gives the mode of each step of the run.

    ``weight``: factor of the gradients of low steps. ``over_macs``: the learning rate falls over multiply-adds,
    not over steps.
    """

    name: str
    modes: Callable[[int, Costs, int], list[str]]
    weight: float = 1.0
    over_macs: bool = False


def cost(modes: Sequence[str], costs: Costs, per_epoch: int) -> float:
    """The cost of a run, in full epochs."""
    return math.fsum(costs[mode] for mode in modes) / per_epoch


def phases(plan: Sequence[tuple[str, int]], per_epoch: int) -> list[str]:
    """The modes one after the other, each for its number of epochs."""
    return [mode for mode, epochs in plan for _ in range(epochs * per_epoch)]


def planned(name: str, plan: Sequence[tuple[str, int]]) -> Arm:
    """A given plan: modes and their epochs, one after the other."""
    return Arm(name, lambda per_epoch, costs, seed: phases([(mode, int(epochs)) for mode, epochs in plan], per_epoch))


def full(epochs: int) -> Arm:
    """Full-mode only."""
    return planned(f"full-mode, {epochs} epochs", [(FULL, epochs)])


def ladder(budget: float) -> Arm:
    """r = 2, 4/3 and 1 in shares of 0.5, 0.3 and 0.2 of the cost of ``budget`` full epochs, in whole epochs."""

    def modes(per_epoch: int, costs: Costs, seed: int) -> list[str]:
        plan = [(mode, max(1, round(share * budget / costs[mode]))) for mode, share in LADDER.items()]
        return phases(plan, per_epoch)

    return Arm(f"ladder, cost of {budget:g} epochs", modes)


def default_ladder(epochs: int, low: str = "s16", name: str = "default ladder") -> Arm:
    """``LadderSchedule.default``: ``low`` (r = 2), r = 4/3 and full-mode for 0.5, 0.3 and 0.2 of the epochs."""
    plan = list(zip((low, "s24", FULL), LadderSchedule.default(epochs).epochs or (), strict=True))
    return planned(f"{name}, {epochs} epochs", plan)


def four_modes(
    epochs: int, shares: Sequence[float] = LadderSchedule.SHARES[4], name: str = "ladder from r = 8/3"
) -> Arm:
    """``SMALLEST`` (r = 8/3), r = 2, r = 4/3 and full-mode for these shares of the epochs, by default the product's."""
    counts = LadderSchedule(epochs, shares=shares).epochs or ()
    return planned(f"{name}, {epochs} epochs", list(zip((SMALLEST, "s16", "s24", FULL), counts, strict=True)))


def longer_four_modes(epochs: int) -> Arm:
    """The same with more small images, for 0.4, 0.33, 0.135 and 0.135 of the epochs: in equal time more epochs."""
    return four_modes(epochs, (0.4, 0.33, 0.135, 0.135), "ladder from r = 8/3, longer")


def mixed(name: str, mode: str, p: Sequence[float], weight: float = 1.0) -> Arm:
    """``BernoulliSchedule``: each step of an epoch is in ``mode`` with the epoch's probability."""

    def modes(per_epoch: int, costs: Costs, seed: int) -> list[str]:
        schedule = BernoulliSchedule(p, seed)
        total = len(p) * per_epoch
        return [FULL if schedule.mode(step, step // per_epoch) is Mode.FULL else mode for step in range(total)]

    return Arm(name, modes, weight)


def ramp(
    epochs: int, initial: float = 0.5, delay: float = 0.5, finetune: float = 0.2, step: int = 4, low: str = "s16"
) -> Arm:
    """Composer's ``ProgressiveResizing`` with its defaults: half size, from ``delay`` on a linear ramp, a full tail.

    ``low``: the mode at half size.
    """

    def mode(progress: float) -> str:
        climbed = min(max((progress - delay) / (1 - finetune - delay), 0.0), 1.0)
        side = round(SIDE * (initial + (1 - initial) * climbed) / step) * step
        return FULL if side >= SIDE else low if side == SIDE // 2 else f"s{side}"

    def modes(per_epoch: int, costs: Costs, seed: int) -> list[str]:
        total = epochs * per_epoch
        return [mode(place / total) for place in range(total)]

    told = "" if low == "s16" else f", {low} at half size"
    return Arm(f"Composer's ramp{told}, {epochs} epochs", modes)


def neighbours(epochs: int, spread: float = 0.65, uniform: float = 0.1) -> Arm:
    """timm's scheduled sizes with its defaults, batches of one size: neighbouring sizes mixed, the larger ones later.

    ``spread``: standard deviation around the epoch's size, in places of the list. ``uniform``: share of batches whose
    size is drawn uniformly.
    """
    names = [*SIDES, FULL]

    def weights(epoch: int) -> Any:
        centre = (epoch / (epochs - 1) if epochs > 1 else 1.0) * (len(names) - 1)
        near = np.exp(-0.5 * ((np.arange(len(names)) - centre) / spread) ** 2)
        return (1 - uniform) * near / near.sum() + uniform / len(names)

    def modes(per_epoch: int, costs: Costs, seed: int) -> list[str]:
        coin = np.random.default_rng([seed, 1])
        return [str(each) for epoch in range(epochs) for each in coin.choice(names, per_epoch, p=weights(epoch))]

    return Arm(f"timm's mix of sizes, {epochs} epochs", modes)


def over_macs(arm: Arm) -> Arm:
    """The same with a learning rate that falls over multiply-adds."""
    return replace(arm, name=f"{arm.name}, rate over macs", over_macs=True)


def fitted(make: Callable[[int], Arm], budget: float, per_epoch: int, costs: Costs, most: int = 200) -> Arm:
    """The arm over that number of epochs, from 2, whose cost comes nearest to ``budget`` full epochs.

    More epochs cost more, so that the search ends two epochs (for arms that draw their modes) after the first above it.
    """
    distances: dict[Arm, float] = {}
    above = 0
    for arm in map(make, range(2, most)):
        over = cost(arm.modes(per_epoch, costs, 0), costs, per_epoch) - budget
        distances[arm] = abs(over)
        above += over > 0
        if above > 2:
            break
    return min(distances, key=distances.__getitem__)
