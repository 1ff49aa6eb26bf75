"""The arms of the GPU training: the mode of each step of a run, as plain lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lowmode_fx import LowModeConfig

FULL, POOLED, SHARED = "full", "pooled", "pooled, shared norms"
SIDE = 32
#: Smaller images, kernels kept, by the name of their mode; the first is r = 2, the third r = 4/3.
SIDES = {f"s{side}": side for side in (16, 20, 24, 28)}
CONFIGS: dict[str, LowModeConfig] = {
    **{name: LowModeConfig(ratio=SIDE / side, kernel_ratio=1) for name, side in SIDES.items()},
    POOLED: replace(LowModeConfig.paper(), batchnorm="isolate"),
    SHARED: LowModeConfig.paper(),
}
#: Modes whose batches grow as their images shrink, by the mode that they are of: as many pixels as full-mode's batch.
GROWN = {name: f"{name}, larger batches" for name in ("s16", "s24")}
MULTIPLIERS = {grown: (SIDE / SIDES[name]) ** 2 for name, grown in GROWN.items()}
CONFIGS |= {grown: CONFIGS[name] for name, grown in GROWN.items()}
#: Shares of a ladder's cost: r = 2, r = 4/3, full.
LADDER = {"s16": 0.5, "s24": 0.3, FULL: 0.2}
Costs = Mapping[str, float]


@dataclass(frozen=True)
class Arm:
    """One way to train. ``modes(steps of an epoch, costs, seed)`` gives the mode of each step of the run."""

    name: str
    modes: Callable[[int, Costs, int], list[str]]


def cost(modes: Sequence[str], costs: Costs, per_epoch: int) -> float:
    """The cost of a run, in full epochs."""
    return math.fsum(costs[mode] for mode in modes) / per_epoch


def phases(plan: Sequence[tuple[str, int]], per_epoch: int) -> list[str]:
    """The modes one after the other, each for its number of epochs."""
    return [mode for mode, epochs in plan for _ in range(epochs * per_epoch)]


def full(epochs: int) -> Arm:
    """Full-mode only."""
    return Arm(f"full-mode, {epochs} epochs", lambda per_epoch, costs, seed: phases([(FULL, epochs)], per_epoch))


def ladder(budget: int) -> Arm:
    """r = 2, 4/3 and 1 in shares of 0.5, 0.3 and 0.2 of the cost of ``budget`` full epochs, in whole epochs."""

    def modes(per_epoch: int, costs: Costs, seed: int) -> list[str]:
        plan = [(mode, max(1, round(share * budget / costs[mode]))) for mode, share in LADDER.items()]
        return phases(plan, per_epoch)

    return Arm(f"ladder, cost of {budget} epochs", modes)


def grown_ladder(budget: int) -> Arm:
    """``ladder`` with batches that grow as images shrink: its epochs have fewer steps, and so cost less."""

    def modes(per_epoch: int, costs: Costs, seed: int) -> list[str]:
        found = []
        for name, share in LADDER.items():
            mode = GROWN.get(name, name)
            steps = max(1, int(per_epoch / MULTIPLIERS.get(mode, 1.0)))
            epochs = max(1, round(share * budget * per_epoch / (costs[mode] * steps)))
            found += [mode] * (epochs * steps)
        return found

    return Arm(f"ladder, larger batches, cost of {budget} epochs", modes)


def ramp(epochs: int, initial: float = 0.5, delay: float = 0.5, finetune: float = 0.2, step: int = 4) -> Arm:
    """Composer's ``ProgressiveResizing`` with its defaults: half size, from ``delay`` on a linear ramp, a full tail."""

    def mode(progress: float) -> str:
        climbed = min(max((progress - delay) / (1 - finetune - delay), 0.0), 1.0)
        side = round(SIDE * (initial + (1 - initial) * climbed) / step) * step
        return FULL if side >= SIDE else f"s{side}"

    def modes(per_epoch: int, costs: Costs, seed: int) -> list[str]:
        total = epochs * per_epoch
        return [mode(place / total) for place in range(total)]

    return Arm(f"Composer's ramp, {epochs} epochs", modes)


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


def paper(epochs: int, mode: str, p: float = 0.5) -> Arm:
    """Kernels pooled to 1×1 with probability ``p`` in each step after the first epochs (4 of 200, and one at least)."""

    def modes(per_epoch: int, costs: Costs, seed: int) -> list[str]:
        held = max(1, round(0.02 * epochs)) * per_epoch
        low = np.random.default_rng([seed, 2]).random(epochs * per_epoch) < p
        low[:held] = False
        return [mode if each else FULL for each in low]

    norms = "shared" if mode == SHARED else "isolated"
    return Arm(f"the paper's setting, {norms} norms, {epochs} epochs", modes)


def planned(name: str, plan: Sequence[tuple[str, int]]) -> Arm:
    """A given plan: modes and their epochs, one after the other."""
    return Arm(name, lambda per_epoch, costs, seed: phases([(mode, int(epochs)) for mode, epochs in plan], per_epoch))


def arms(epochs: int = 24) -> list[Arm]:
    """All arms, the most important first; ``epochs``: length of the full-mode run, to which others are scaled."""

    def cut(of: int) -> int:
        return max(1, round(epochs * of / 24))

    found = [
        full(epochs), ramp(epochs), ladder(cut(14)), full(cut(14)), grown_ladder(cut(14)), full(cut(12)),
        ladder(cut(12)), neighbours(epochs), grown_ladder(cut(12)), full(cut(17)), full(cut(19)), ladder(cut(17)),
        paper(epochs, SHARED), paper(epochs, POOLED),
    ]  # fmt: skip
    return list({arm.name: arm for arm in found}.values())  # short runs have fewer shortened versions
