"""What the ablation measures before its runs: the tuner's choices, and the cost of a step of each low mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bench.ablation_arms import BUDGETS
from bench.ablation_studies import Study, loader, network, settings
from bench.harness import paired_ratio
from bench.plans import FULL
from bench.training_step import mode_times
from lowmode_fx import LadderSchedule, LowModeConfig, LowModeModel, build_ladder
from lowmode_fx.train import DataSplits
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.tune import tune
from lowmode_fx.utils.progress import progress


def tuned(study: Study, splits: DataSplits, seconds: float, modes: int) -> Tuning:
    """The tuner's choice with its default options, of up to ``modes`` modes.

    Of three modes in 0.6 of the time, of four in half of it.
    """

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=study.lr / 2, momentum=0.9, weight_decay=5e-4, nesterov=True)

    with progress() as tell:
        return tune(
            network(study, seed=1000),
            loader(splits),
            epochs=study.epochs,
            optimizer=optimizer,
            autocast=settings(study, study.epochs, 0).autocast_dtype(),
            modes=modes,
            time_budget={2: 1.0, 3: BUDGETS[0], 4: BUDGETS[1]}[modes],
            seconds=seconds,
            on_progress=tell,
        )


def measure_costs(
    study: Study, splits: DataSplits, configs: Mapping[str, LowModeConfig], rounds: int
) -> dict[str, Any]:
    """The time of a step of each low mode divided by a full step's, with the autocast of runs.

    Forward, backward and optimizer, all modes paired and interleaved in one run. On a CPU also in float32, under
    ``"float32"``, where small convolutions follow their multiply-adds better.
    """
    images, labels = next(iter(loader(splits)))
    model = network(study, 0)
    ladder = build_ladder(model, images[:2], configs)
    net = LowModeModel(ladder, LadderSchedule((1,) * len(ladder.modes)), compile=images.is_cuda).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, nesterov=True)
    found: dict[str, Any] = {}
    autocast = settings(study, study.epochs, 0).autocast_dtype()
    for dtype in dict.fromkeys((autocast, autocast if images.is_cuda else None)):
        times = mode_times(net, lambda: (images, labels), optimizer, rounds, dtype)
        for mode in configs:
            ratio = paired_ratio(times[mode], times[FULL])
            found[mode] = found.get(mode, ratio) | ({"float32": ratio} if dtype is None else {})
    return found


def prepare(study: Study, splits: DataSplits, tune_seconds: float, modes: int) -> dict[str, Any]:
    """The tuner's choice and its measurements."""
    print(f"{study.key}: tuning, {modes} modes", flush=True)
    choice = tuned(study, splits, tune_seconds, modes)
    print("\n".join(f"  {reason}" for reason in choice.reasons), flush=True)
    tried = {
        f"{each.name}, low gradients × {each.weight:g}": {
            "cost": each.cost,
            "gain by gradients": [progress.gain for progress in each.progress],
            "gain in trial runs": each.trial_gains,
            "predicted time": each.plan.time,
        }
        for each in choice.candidates
        if each.trial_gains
    }
    return {"tuning": choice.to_dict(), "trial runs": tried}
