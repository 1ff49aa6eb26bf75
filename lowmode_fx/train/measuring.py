"""What a run measures between its steps, where its schedule or its settings ask for it."""

from __future__ import annotations

import itertools

import torch

from lowmode_fx.runtime.schedules import MeasuringSchedule
from lowmode_fx.train.batches import train_batches
from lowmode_fx.train.precise_bn import recompute_statistics
from lowmode_fx.train.run import Run


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
    """Recompute running statistics at the end of the last epoch, where the settings ask for it."""
    settings = run.settings
    if not settings.precise_bn or run.epoch != settings.epochs - 1:
        return
    # The same batches on every rank, whole.
    whole = train_batches(
        run.splits, batch_size=settings.batch_size, seed=settings.seed, epoch=run.epoch, device=run.device
    )
    count = min(settings.precise_bn, run.steps)
    recompute_statistics(run.ema.model if run.ema else run.plain, (images for images, _ in whole), count)
