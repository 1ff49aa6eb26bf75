"""``tune``: measure the gain of low steps on a user's model and data, and plan a run from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import replace
from typing import get_args

import torch
import torch.nn.functional as F
from torch import nn

from lowmode_fx.capture.images import Argument
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.runtime.batch_growth import LrRule
from lowmode_fx.tuning.agreement import Criterion
from lowmode_fx.tuning.batches import Batch
from lowmode_fx.tuning.candidates import Choice, families, try_pair
from lowmode_fx.tuning.compiled_prices import price_compiled
from lowmode_fx.tuning.costs import CostMeasure, OptimizerFactory
from lowmode_fx.tuning.decide import Wanted, decide, no_progress
from lowmode_fx.tuning.growth import TriedMultiplier
from lowmode_fx.tuning.plan import TAIL, TAIL_OF_FOUR
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.search import Search
from lowmode_fx.tuning.trial_order import trial_runs
from lowmode_fx.tuning.trials import Probe
from lowmode_fx.tuning.tried_ratios import LARGEST_RATIO, MOST_POOLED, default_ratios
from lowmode_fx.utils.validation import as_choice, as_count, as_multiplier, as_number, as_share, wrong_type
from passes.errors import OptionError
from passes.ratios import RatioLike, largest_ratio, plain_ratio
from passes.spelling import setting

#: Shares of the time for the short full run and the search; trial runs take the rest.
_RUN_SHARE, _SEARCH_SHARE = 0.35, 0.6
#: Share of the time that is kept for compiling the modes of the plan.
_COMPILE_SHARE = 0.2
#: Minimum of the short run: below it a trial run has hardly any low steps.
_LEAST_STEPS = 8
#: Share of ``seconds`` from which a line says that it took longer: a step ends before the time is looked at.
_LATE = 1.1


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The default optimizer of the tuner's short runs: SGD, learning rate 0.05, momentum 0.9, weight decay 5e-4."""
    weights = list(parameters)
    fused = weights[0].is_cuda or None  # so that a captured step holds its step, too
    return torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=5e-4, fused=fused)


def tune(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    epochs: int,
    criterion: Criterion = F.cross_entropy,
    optimizer: OptimizerFactory = sgd,
    config: LowModeConfig | None = None,
    ratios: Sequence[RatioLike] | None = None,
    modes: int = 2,
    time_budget: float = 1.0,
    batch_multiplier: TriedMultiplier = 1.0,
    lr_rule: LrRule = "linear",
    measure: CostMeasure = "time",
    autocast: torch.dtype | None = None,
    compile: bool | None = None,
    tail: float | None = None,
    seconds: float = 600.0,
    run_steps: int | None = None,
    steps_per_epoch: int | None = None,
    images: Argument | Iterable[Argument] | None = None,
    seed: int = 0,
    on_progress: Callable[[str, float], None] = lambda what, share: None,
) -> Tuning:
    """Choose low modes and a schedule for a model and its data, to match a run of full epochs in less time.

    A copy of the model trains in full-mode for a part of the time. At two points of that run the gradients of every
    candidate are compared with full-mode's (``tuning.gain``), and its step is timed. The best candidates then have
    trial runs from the same start, mostly in low-mode, and are compared by the full-mode loss that they reach. The plan
    follows from gain and cost of a low step (``tuning.plan``). The model is left as it was.

    Args:
        model: The model, on the device on which it will train.
        loader: Batches ``(inputs, targets)`` on the model's device, with the batch size of the training; ``inputs`` is
            the model's input (images ``(N, C, *S)``, a tuple, or a mapping of keywords). If ``forward`` computes the
            loss, a batch is a mapping of all keywords, for ``criterion=lambda output, _: output["loss"]``. The loader
            is iterated several times.
        epochs: Number of full epochs to match.
        criterion: ``criterion(output, targets)`` returns the loss, a scalar.
        optimizer: Makes the optimizer of the short runs from parameters, with about the learning rate of the run.
        config: Options for norms, heads and outputs, and ``keep_convs``, of all candidates. Give
            ``restore_output=True`` for dense prediction, whose targets have full size.
        ratios: Ratios of the images to try, in this order, from 1 to 4; 1 pools kernels on full-size images. By default
            2 and 1, with three modes 4/3 too, with four 8/3 with kernels kept: short trial runs overestimate 3 and 4,
            and pooled kernels at 8/3 (docs/benchmarks/accuracy.md).
        modes: Maximum number of modes of the plan, full-mode included. With 2, the low mode comes first. With more, the
            tried configurations follow each other by the cost of their progress (``tuning.plan``), if that saves a
            tenth of the full run's time beside a plain ramp (``LadderSchedule.default``: r = 2, 4/3, full size, with
            four modes also from r = 8/3); else the ramp is the plan, if its modes were tried and pay.
        time_budget: Maximum share of the full run's time, in (0, 1]. If the cheapest plan takes longer, the one with
            the most progress within the budget is used.
        batch_multiplier: Larger batches of low steps to try besides equal ones, as in ``LowModeModel``: ``"pixels"``,
            or a number above 1. For each mode of the plan as many images are timed first; where they cost at least a
            tenth less, as on a GPU that small images leave partly idle, the larger batch has trial runs. A run of such
            a plan needs ``batch_multiplier=tuning.batch_multiplier`` and a loader that knows the net.
        lr_rule: What a larger batch's learning rate is multiplied by, as in ``LowModeModel``.
        measure: Measure the cost of a step by ``"time"`` (a whole ``TrainStep``, captured on CUDA) or by ``"macs"``.
        autocast: ``torch.bfloat16`` if the run will use autocast to it, which changes costs.
        compile: Time the modes of the plan once more, compiled, as ``LowModeModel`` runs them by default, and plan with
            these costs; a fifth of the time is kept for it. By default on CUDA; on a CPU most ratios change by less
            than a tenth (docs/benchmarks/step-time.md), and compilation takes up to a minute a mode.
        tail: Share of the progress, in [0, 1], that is left when images of half the side end: to full-mode with two
            modes, to larger images with more. By default 0.5, and 0.35 for a plan of four modes or more.
        seconds: Time in seconds, in which a full run of eight steps and one trial run are the least; ``reasons`` say
            what was not reached, and if the least took longer.
        run_steps: Steps of the short run; by default as many as the time allows.
        steps_per_epoch: Optimizer steps per epoch, for a loader without a length.
        images: The arguments that hold images, as in ``build_pair``.
        seed: Seed of the schedule.
        on_progress: Callback with the current stage and the share of the time that has passed, in [0, 1].

    Returns:
        The configurations, the schedule, the weight of low gradients, and the reasons.

    Raises:
        ValueError: An argument is out of range, a batch is invalid, or no candidate gives a pair.
    """
    steps_per_epoch = _length(loader) if steps_per_epoch is None else steps_per_epoch
    as_count("modes", modes, 2)
    if isinstance(optimizer, torch.optim.Optimizer) or not callable(optimizer):
        raise wrong_type(
            "optimizer", optimizer, "a function that makes one: lambda weights: torch.optim.SGD(weights, lr=0.05)"
        )
    tried = default_ratios(modes) if ratios is None else tuple(ratios)
    tail = (TAIL if modes < 4 else TAIL_OF_FOUR) if tail is None else tail
    _check(epochs, tail, seconds, tried, measure, steps_per_epoch, autocast)
    if compile and measure == "macs":
        raise OptionError(
            "compile", compile, "has no effect on counted macs", f"leave out {setting('measure', 'macs')}"
        )
    as_number("time_budget", time_budget, above=0, most=1)
    if batch_multiplier != "pixels":
        batch_multiplier = as_multiplier(batch_multiplier)
    as_choice("lr_rule", lr_rule, get_args(LrRule))
    base = LowModeConfig() if config is None else config
    start = time.monotonic()

    def tell(what: str) -> None:
        on_progress(what, min(1.0, (time.monotonic() - start) / seconds))

    tell("reading batches")
    probe = Probe(model, loader, criterion, optimizer, autocast=autocast, images=images)
    plain, _ = try_pair(probe.captured, replace(base, kernel_ratio=1))
    has_maxpool = plain is not None and bool(plain.report.of("drop_maxpools").skips)
    choices = list(families(base, tried, has_maxpool, MOST_POOLED if ratios is None else LARGEST_RATIO))
    _check_candidates(probe, choices)
    total = epochs * steps_per_epoch
    run_length = max(_LEAST_STEPS, run_steps or min(round(0.2 * total), 600))

    def in_time(step: int) -> bool:
        tell(f"short full run of {run_length} steps")
        return run_steps is not None or step < _LEAST_STEPS or time.monotonic() - start < _RUN_SHARE * seconds

    last = probe.run((run_length // 4, run_length), in_time)
    search = Search(
        probe=probe,
        measure=measure,
        total_steps=total,
        epochs=epochs,
        tail=tail,
        deadline=start + (_RUN_SHARE + _SEARCH_SHARE) / 2 * seconds,
        batch_multiplier=batch_multiplier,
        lr_rule=lr_rule,
        on_choice=lambda choice: tell(f"measuring {choice.name}"),
    )
    for choice in choices:
        search.try_choice(choice)
    search.deadline = start + _SEARCH_SHARE * seconds
    pooled = [each for each in search.candidates if each.config.pools_kernels]
    if pooled:
        search.refine(min(pooled, key=lambda each: each.plan.time))
    wanted = Wanted(epochs, tail, modes, time_budget, seed)
    compiled = probe.batches[0].device.type == "cuda" and measure == "time" if compile is None else compile
    reasons = trial_runs(search, wanted, last, start + (1 - _COMPILE_SHARE * compiled) * seconds, tell)
    reasons += price_compiled(search, wanted, tell) if compiled else []
    if probe.losses[last] >= probe.losses[0]:
        reasons.insert(0, no_progress(probe.losses[0], probe.losses[last], last))
    found = decide(search, wanted, reasons, last / total)
    took = time.monotonic() - start
    if took <= _LATE * seconds:
        return found
    late = (
        f"tuning took {took:.0f} s instead of {setting('seconds', seconds)}: the least is a full run of {_LEAST_STEPS} "
        f"steps and one mode's trial run{', and the modes of the plan were compiled' if compiled else ''}"
    )
    return replace(found, reasons=(*found.reasons, late))


def _check_candidates(probe: Probe, choices: Sequence[Choice]) -> None:
    """Raise ``ValueError`` if no candidate gives a pair: before any training, which would be in vain."""
    refused: dict[str, str] = {}
    for choice in choices:
        pair, refused[choice.name] = try_pair(probe.captured, choice.config)
        if pair is not None:
            return
    name, reason = next(iter(refused.items()))
    raise ValueError(f"no candidate gives a pair: {name}: {reason}")


def _length(loader: Iterable[Batch]) -> int:
    if not isinstance(loader, Sized):
        raise ValueError("loader has no length; give steps_per_epoch, the optimizer steps of one epoch")
    return len(loader)


def _check(
    epochs: int,
    tail: float,
    seconds: float,
    ratios: Sequence[RatioLike],
    measure: str,
    steps_per_epoch: int,
    autocast: torch.dtype | None,
) -> None:
    if autocast is torch.float16:
        raise ValueError(
            "autocast=torch.float16 would need a gradient scaler; give torch.bfloat16, whose cost is similar"
        )
    as_choice("measure", measure, get_args(CostMeasure))
    as_count("steps_per_epoch", steps_per_epoch, 1)
    as_count("epochs", epochs, 1)
    as_share("tail", tail)
    as_number("seconds", seconds, above=0)
    if not ratios or any(not 1 <= largest_ratio(ratio) <= LARGEST_RATIO for ratio in ratios):
        told = tuple(map(plain_ratio, ratios))
        raise OptionError("ratios", told, "is out of range", f"give numbers from 1 to {LARGEST_RATIO}, such as 2, 4/3")
