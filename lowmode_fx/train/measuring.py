"""What a run measures between its steps, where its schedule or its settings ask for it."""

from __future__ import annotations

import itertools
from collections import Counter

import torch
from torch import nn

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules import MeasuringSchedule
from lowmode_fx.train.batches import train_batches
from lowmode_fx.train.precise_bn import recompute_statistics
from lowmode_fx.train.run import Run
from passes.spelling import setting

#: Share of a running statistic from before the last full steps that does no harm: 88 of them leave it at momentum 0.1.
LEFT_OVER = 1e-4
#: Batches from which statistics that are older are computed anew.
AUTOMATIC_BATCHES = 100


def measure_agreement(run: Run) -> None:
    """Where the schedule asks for it, compare both modes' gradients on the coming batches: part of the time."""
    schedule = run.low_mode.schedule if run.low_mode is not None else None
    if run.low_mode is None or not isinstance(schedule, MeasuringSchedule):
        return
    if schedule.due(run.low_mode.step, run.epoch):
        # At an epoch's end its last batches: a resumed run can name them too.
        first = max(0, min(run.step, run.steps - schedule.batches))
        coming = itertools.islice(run.batches(run.epoch, first), schedule.batches)
        # float16 would need a scaler for these gradients too.
        autocast = torch.bfloat16 if run.settings.autocast == "bf16" else None
        gain = schedule.measure(run.low_mode.pair, coming, run.criterion, run.low_mode.step, autocast)
        run.reporter.say(f"step {run.low_mode.step}: a low step gains {gain:.2f} full ones")


def make_statistics_precise(run: Run) -> None:
    """Recompute running statistics at the end of the last epoch, where the settings ask for it or they are old."""
    settings = run.settings
    if settings.precise_bn == 0 or run.epoch != settings.epochs - 1:
        return
    if settings.precise_bn is not None:
        _recompute(run, min(settings.precise_bn, run.steps))
    elif left_old(run):
        count = min(AUTOMATIC_BATCHES, run.steps)
        few = f"the last {last_full_steps(run)} full steps are too few to settle running statistics"
        try:
            if run.sharded:
                raise ValueError(f"{setting('fsdp', True)} shards the weights")
            _recompute(run, count)
        except ValueError as error:
            told = str(error).removesuffix("; leave it at 0")
            run.reporter.say(f"warning: {few}, and they can't be computed anew: {told}; give a longer full tail")
        else:
            run.reporter.say(f"note: {few}, so they come from {count} batches ({setting('precise_bn', 0)} leaves them)")


def left_old(run: Run) -> bool:
    """Whether running statistics hold more than ``LEFT_OVER`` of what they were before the last full steps."""
    if run.low_mode is None or not any(rung.config.batchnorm == "isolate" for rung in run.low_mode.ladder.rungs):
        return False
    steps = last_full_steps(run)
    norms = (module for module in run.plain.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    factors = [norm.momentum for norm in norms if norm.track_running_stats and norm.momentum is not None]
    ran_low = any(count for mode, count in total_steps(run).items() if mode != str(Mode.FULL))
    return ran_low and any((1 - factor) ** steps > LEFT_OVER for factor in factors)


def last_full_steps(run: Run) -> int:
    """Full steps of the last epochs without low ones; 0 if the last epoch has some."""
    found = 0
    for steps in (run.mode_steps, *(record.steps for record in reversed(run.records))):
        if any(count for mode, count in steps.items() if mode != str(Mode.FULL)):
            break
        found += steps[str(Mode.FULL)]
    return found


def total_steps(run: Run) -> Counter[str]:
    """Steps of the whole run by mode."""
    found = Counter(run.mode_steps)
    for record in run.records:
        found.update(record.steps)
    return found


def _recompute(run: Run, count: int) -> None:
    settings = run.settings
    # The same batches on every rank, whole.
    whole = train_batches(
        run.splits, batch_size=settings.batch_size, seed=settings.seed, epoch=run.epoch, device=run.device
    )
    recompute_statistics(run.ema.model if run.ema else run.plain, (images for images, _ in whole), count)
