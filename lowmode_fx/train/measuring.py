"""What a run measures between its steps, where its schedule or its settings ask for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lowmode_fx.runtime.schedules import MeasuringSchedule
from lowmode_fx.train.batches import train_batches
from lowmode_fx.train.precise_bn import StatisticsError, recompute_statistics
from lowmode_fx.train.run import Run
from passes.errors import OptionError
from passes.spelling import setting
from passes.wording import one_line

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
        with told_of_option(settings.precise_bn):
            _recompute(run, min(settings.precise_bn, run.steps))
    elif left_old(run):
        count = min(AUTOMATIC_BATCHES, run.steps)
        few = _too_few(last_full_steps(run) or 0)
        try:
            if run.sharded:
                raise ValueError(f"{setting('fsdp', True)} shards the weights")
            _recompute(run, count)
        except Exception as error:  # nobody asked for it: whatever the model can't do here, the run ends as it would
            told = error.problem if isinstance(error, StatisticsError) else one_line(error)
            run.reporter.say(f"warning: {few}, and they can't be computed anew: {told}; give a longer full tail")
        else:
            batches = f"{count} batch{'es' * (count != 1)}"
            run.reporter.say(f"note: {few}, so they come from {batches} ({setting('precise_bn', 0)} leaves them)")


@contextmanager
def told_of_option(batches: int) -> Iterator[None]:
    """Inside, statistics that can't be computed anew are an ``OptionError`` of ``precise_bn``, which asked for it."""
    try:
        yield
    except StatisticsError as error:
        raise OptionError("precise_bn", batches, f"can't be had: {error.problem}", "give 0") from error


def _too_few(steps: int) -> str:
    """Why running statistics are old after so many full steps at the end, in words."""
    if steps == 0:
        return "low steps in the last epoch leave running statistics old"
    last = "the last full step is" if steps == 1 else f"the last {steps} full steps are"
    return f"{last} too few to settle running statistics"


def left_old(run: Run) -> bool:
    """Whether running statistics hold more than ``LEFT_OVER`` of what they were before the last full steps.

    In an average of the weights they follow by its decay, too.
    """
    steps = last_full_steps(run)
    if steps is None:
        return False
    norms = [module for module in run.plain.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    moving = [norm.momentum for norm in norms if norm.track_running_stats and norm.momentum]
    kept = [1 - momentum for momentum in moving] + [run.settings.ema] * bool(run.ema and moving)
    return any(share**steps > LEFT_OVER for share in kept)


def last_full_steps(run: Run) -> int | None:
    """Steps since the last epoch of which some leave statistics alone; 0 if that is the last, ``None`` without one."""
    rungs = run.low_mode.ladder.rungs if run.low_mode is not None else ()
    isolating = {str(rung.mode) for rung in rungs if rung.config.batchnorm == "isolate"}
    found = 0
    for steps in (run.mode_steps, *(record.steps for record in reversed(run.records))):
        if any(steps.get(mode, 0) for mode in isolating):
            return found
        found += sum(steps.values())
    return None


def _recompute(run: Run, count: int) -> None:
    settings = run.settings
    # The same batches on every rank, whole.
    whole = train_batches(
        run.splits, batch_size=settings.batch_size, seed=settings.seed, epoch=run.epoch, device=run.device
    )
    recompute_statistics(run.ema.model if run.ema else run.plain, (images for images, _ in whole), count)
