"""The arms of the ablation: their low modes, and plans in which these follow each other."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bench.plans import (
    FULL,
    KEPT,
    SMALLEST,
    SMALLEST_CONFIG,
    Arm,
    Costs,
    default_ladder,
    fitted,
    four_modes,
    full,
    ladder,
    longer_four_modes,
    mixed,
    neighbours,
    over_macs,
    planned,
    ramp,
)
from lowmode_fx import BernoulliSchedule, LadderSchedule, LowModeConfig, Tuning

POOLED, RESAMPLED, TUNED = "all averaged", "all resampled", "tuned"
#: What the names of the modes of a tuner's ladder begin with.
RUNG = f"{TUNED}, rung"
#: Shares of full-mode's time in which ladders are compared with other packages' schedules.
BUDGETS = (0.6, 0.5)


def low_modes(last_stage: str, tuning: Tuning | None, ladder_tuning: Tuning | None) -> dict[str, LowModeConfig]:
    """The configuration of each low mode, by its name in plans; ``last_stage``: glob of its convolutions."""
    paper = LowModeConfig.paper()
    chosen = {} if tuning is None else {TUNED: tuning.config}
    chosen |= {f"{mode}, shared norms": replace(config, batchnorm="share") for mode, config in chosen.items()}
    laddered = ladder_tuning.configs if ladder_tuning is not None else ()
    return {
        **KEPT,
        SMALLEST: SMALLEST_CONFIG,
        "r = 3, kernels kept": LowModeConfig(ratio=3, kernel_ratio=1),
        "r = 4, kernels kept": LowModeConfig(ratio=4, kernel_ratio=1),
        POOLED: LowModeConfig(),
        RESAMPLED: LowModeConfig(kernel_transform="linear"),
        f"{RESAMPLED}, cover": LowModeConfig(kernel_transform="linear", rounding="cover"),
        "last stage pooled": LowModeConfig(pool_convs=(last_stage,)),
        "the paper's": paper,
        "the paper's, isolated norms": replace(paper, batchnorm="isolate"),
        **chosen,
        **{f"{RUNG} {place}": config for place, config in enumerate(laddered)},
    }


def full_lengths(epochs: int) -> list[Arm]:
    """Plain full-mode, of full length and cut short: the accuracy that the same time gives without low-mode."""
    return [full(round(epochs * share)) for share in (1.0, 0.75, 0.625, 0.5)]


def longer_low(network: str) -> list[Arm]:
    """Runs with more low epochs than full-mode has epochs: pooled and kept kernels in about the same time."""
    found = {
        "resnet8": [
            ("r = 2, kernels kept", "s16", 11, 8),
            ("r = 2, kernels kept", "s16", 14, 6),
            ("r = 2, kernels kept", "s16", 18, 6),
            ("r = 3, kernels kept", "r = 3, kernels kept", 39, 8),
        ],
        "resnet8-5x5": [
            ("5×5 → 3×3 resampled", f"{RESAMPLED}, cover", 19, 6),
            ("r = 2, kernels kept", "s16", 14, 6),
            ("r = 4, kernels kept", "r = 4, kernels kept", 10, 6),
        ],
    }
    return [
        planned(f"{name}, {low} low + {whole} full epochs", [(mode, low), (FULL, whole)])
        for name, mode, low, whole in found.get(network, [])
    ]


def one_low_mode(epochs: int) -> list[Arm]:
    """Arms of one low mode over the epochs of full-mode. *Progressive*: half of them low, then full."""
    half = epochs // 2
    progressive = [1.0] * half + [0.0] * (epochs - half)
    drawn = [0.5] * epochs
    return [
        mixed("resolution only, progressive", "s16", progressive),
        mixed("resolution only, p = 0.5", "s16", drawn),
        mixed("the paper's setting", "the paper's", drawn),
        mixed("resolution only, progressive, low gradients × 0.5", "s16", progressive, 0.5),
        mixed("last stage pooled, progressive", "last stage pooled", progressive),
        mixed("all resampled, progressive", RESAMPLED, progressive),
        mixed("all averaged, progressive", POOLED, progressive),
    ]


def tuned(tuning: Tuning, epochs: int, variations: bool) -> list[Arm]:
    """The tuner's plan for one low mode and, with ``variations``, the same and the paper's with other options."""
    assert isinstance(tuning.schedule, BernoulliSchedule) and isinstance(tuning.low_weight, float)
    chosen = [tuning.schedule.low_probability(epoch) for epoch in range(tuning.epochs)]
    found = [mixed("tuner's choice", TUNED, chosen, tuning.low_weight)]
    if variations:
        found.append(mixed("tuner's choice, shared norms", f"{TUNED}, shared norms", chosen, tuning.low_weight))
        found.append(mixed("the paper's setting, isolated norms", "the paper's, isolated norms", [0.5] * epochs))
    if variations and tuning.low_weight != 1:
        found.append(mixed("tuner's choice, low gradients × 1", TUNED, chosen))
    return found


def ladders(network: str, epochs: int, per_epoch: int, costs: Costs, tuning: Tuning | None) -> list[Arm]:
    """Ladders, full-mode's controls and other packages' schedules, all at about the same cost."""
    found = []
    for budget in (share * epochs for share in BUDGETS):
        fit = partial(fitted, budget=budget, per_epoch=per_epoch, costs=costs)
        found += [fit(default_ladder), fit(four_modes), fit(ramp), fit(neighbours), ladder(budget)]
        found += [over_macs(fit(make)) for make in (default_ladder, four_modes, longer_four_modes, ramp)]
        if network.endswith("5x5"):
            low = f"{RESAMPLED}, cover"
            name = "default ladder, 5×5 → 3×3 at r = 2"
            found.append(fit(partial(default_ladder, low=low, name=name)))
            found.append(over_macs(found[-1]))
            found.append(fit(partial(ramp, low=low)))
    if tuning is not None and isinstance(tuning.schedule, LadderSchedule):
        found += [tuned_ladder(tuning), over_macs(tuned_ladder(tuning))]
    return list({arm.name: arm for arm in found}.values())


def tuned_ladder(tuning: Tuning) -> Arm:
    """The plan of ``tune`` for several low modes."""
    assert isinstance(tuning.schedule, LadderSchedule)
    names = [*(f"{RUNG} {place}" for place in range(len(tuning.configs))), FULL]
    plan = list(zip(names, tuning.schedule.epochs or (), strict=True))
    return planned("tuner's ladder", plan)
