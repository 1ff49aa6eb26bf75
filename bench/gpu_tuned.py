"""The tuner's plan for a study of the GPU training, measured on the device that trains: rungs, epochs and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from bench.cifar_archives import Split
from bench.gpu_arena import augmented
from bench.gpu_studies import Study
from bench.plans import FULL, Arm, Costs
from lowmode_fx import LadderSchedule, Mode, Tuning, tune
from lowmode_fx.lowering.rung_names import rung_names
from lowmode_fx.tuning.trials import DivergedError

#: Modes of the plan at most, full-mode included, and its share of the time of full-mode's run.
MODES, BUDGET = 4, 0.5


def tuned(study: Study, train: Split, epochs: int, seconds: float, device: torch.device) -> Tuning:
    """What ``tune`` chooses for ``epochs`` full epochs, in about ``seconds`` seconds, by steps as the run will have."""
    batches = [
        (images.contiguous(memory_format=study.memory_format), labels)
        for images, labels in augmented(train, study.batch, seed=1000)
    ]
    for rate in (study.peak_rate, study.peak_rate / 4, study.peak_rate / 16):
        try:
            return tune(
                study.network(device),
                batches,
                epochs=epochs,
                criterion=F.cross_entropy,
                optimizer=_at_rate(study, rate),
                modes=MODES,
                time_budget=BUDGET,
                batch_multiplier="pixels",
                autocast=torch.bfloat16 if device.type == "cuda" else None,
                compile=study.compile,
                seconds=seconds,
                on_progress=lambda what, share: print(f"  tuning, {share:.0%}: {what}", flush=True),
            )
        except DivergedError as error:  # without the warm-up that a run has
            print(f"  {error}", flush=True)
    raise RuntimeError("the short runs of the tuner diverge at a sixteenth of the peak rate")


def tuned_study(study: Study, tuning: Tuning) -> Study:
    """The study with the plan's modes, and the plan as its only arm."""
    names = [str(mode) for mode, _ in rung_names(tuning.configs)]
    given = tuning.batch_multiplier
    multipliers = dict(given) if not isinstance(given, float | int) else dict.fromkeys(names, float(given))
    arm = _arm(tuning, names, multipliers)
    configs = dict(zip(names, tuning.configs, strict=True))
    weight = tuning.low_weight
    return replace(study, configs=configs, multipliers=multipliers, low_weight=weight, arms=lambda epochs, costs: [arm])


def _arm(tuning: Tuning, names: list[str], multipliers: dict[str, float]) -> Arm:
    schedule = tuning.schedule
    if isinstance(schedule, LadderSchedule):
        counts = list(schedule.epochs or ())
    else:
        low = sum(schedule.mode(0, epoch) is not Mode.FULL for epoch in range(tuning.epochs))
        counts = [low, tuning.epochs - low]

    def modes(per_epoch: int, costs: Costs, seed: int) -> list[str]:
        found = []
        for name, count in zip([*names, FULL], counts, strict=True):
            steps = max(1, int(per_epoch / multipliers.get(name, 1.0)))
            found += [name] * (count * steps)
        return found

    return Arm(f"tuner's plan, {BUDGET:g} of the time", modes, over_macs=True)


def _at_rate(study: Study, rate: float) -> Callable[[Iterable[Tensor]], Optimizer]:
    def optimizer(parameters: Iterable[Tensor]) -> Optimizer:
        made = study.optimizer(parameters)
        for group in made.param_groups:
            group["lr"] = rate
        return made

    return optimizer
