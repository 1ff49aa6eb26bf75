"""The arms of the GPU training: plans, as lists of the mode of each step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.plans import FULL, KEPT, LADDER, SIDE, SIDES, Arm, Costs, full, ladder, neighbours, over_macs, ramp
from lowmode_fx import LowModeConfig

POOLED, SHARED = "pooled", "pooled, shared norms"
CONFIGS: dict[str, LowModeConfig] = {
    **KEPT,
    POOLED: replace(LowModeConfig.paper(), batchnorm="isolate"),
    SHARED: LowModeConfig.paper(),
}
#: Modes whose batches grow as their images shrink, by the mode that they are of: as many pixels as full-mode's batch.
GROWN = {name: f"{name}, larger batches" for name in ("s16", "s24")}
MULTIPLIERS = {grown: (SIDE / SIDES[name]) ** 2 for name, grown in GROWN.items()}
CONFIGS |= {grown: CONFIGS[name] for name, grown in GROWN.items()}


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


def paper(epochs: int, mode: str, p: float = 0.5) -> Arm:
    """Kernels pooled to 1×1 with probability ``p`` in each step after the first epochs (4 of 200, and one at least)."""

    def modes(per_epoch: int, costs: Costs, seed: int) -> list[str]:
        held = max(1, round(0.02 * epochs)) * per_epoch
        low = np.random.default_rng([seed, 2]).random(epochs * per_epoch) < p
        low[:held] = False
        return [mode if each else FULL for each in low]

    norms = "shared" if mode == SHARED else "isolated"
    return Arm(f"the paper's setting, {norms} norms, {epochs} epochs", modes)


def arms(epochs: int = 24) -> list[Arm]:
    """All arms, the most important first; ``epochs``: length of the full-mode run, to which others are scaled."""

    def cut(of: int) -> int:
        return max(1, round(epochs * of / 24))

    found = [
        full(epochs), ramp(epochs), over_macs(ladder(cut(14))), full(cut(14)), over_macs(ladder(cut(12))),
        ladder(cut(14)), over_macs(ramp(epochs)), grown_ladder(cut(14)), full(cut(12)), ladder(cut(12)),
        neighbours(epochs), over_macs(grown_ladder(cut(14))), full(cut(17)), full(cut(19)), ladder(cut(17)),
        paper(epochs, SHARED), paper(epochs, POOLED),
    ]  # fmt: skip
    return list({arm.name: arm for arm in found}.values())  # short runs have fewer shortened versions
