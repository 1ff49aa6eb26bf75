"""``tune``: measure what low steps gain on a user's model and data, and plan a run from it."""

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
from lowmode_fx.tuning.agreement import Criterion
from lowmode_fx.tuning.batches import Batch
from lowmode_fx.tuning.candidates import families, try_pair
from lowmode_fx.tuning.costs import CostMeasure
from lowmode_fx.tuning.decide import Wanted, decide, no_progress
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.search import Candidate, Search
from lowmode_fx.tuning.trials import OptimizerFactory, Probe
from lowmode_fx.tuning.tried_ratios import LADDER_RATIOS, LARGEST_RATIO, RATIOS
from lowmode_fx.utils.validation import as_choice, as_count, as_number, as_share
from passes.errors import OptionError
from passes.ratios import RatioLike, largest_ratio, plain_ratio

#: Shares of the time: the short full run, then the search; trial runs take the rest.
_RUN_SHARE, _SEARCH_SHARE = 0.35, 0.6
#: Of the short run: below it a trial run has hardly a low step.
_LEAST_STEPS = 8


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of the tuner's short runs unless another is given: SGD, rate 0.05, momentum 0.9, decay 5e-4."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)


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
    measure: CostMeasure = "time",
    autocast: torch.dtype | None = None,
    tail: float = 0.5,
    seconds: float = 600.0,
    run_steps: int | None = None,
    steps_per_epoch: int | None = None,
    images: Argument | Iterable[Argument] | None = None,
    seed: int = 0,
    on_progress: Callable[[str, float], None] = lambda what, share: None,
) -> Tuning:
    """Choose a low-mode for ``model`` on the data of ``loader``, for a run that is to match ``epochs`` full epochs.

    A copy of the model trains in full-mode for a part of the time; at two points of that run the gradients of every
    candidate are compared with full-mode's (``tuning.progress``), and its step is timed. The best then have
    trial runs from the same start, mostly in low-mode, and are compared by the full-mode loss that they reach. From the
    gain of a low step and its cost comes the plan (``tuning.plan``).

    loader: gives ``(inputs, targets)`` on the model's device, of the batch size that will be trained with, inputs being
        what the model is called with (images ``(N, C, *S)``, a tuple, a mapping of keywords); or a mapping of all that
        it takes where its loss is inside, for ``criterion=lambda output, _: output["loss"]``. Gone through as often as
        needed. Without a length, say ``steps_per_epoch``.
    optimizer: makes the optimizer of the short runs from parameters, at about the run's rate.
    config: what it says of norms, heads and outputs holds for all candidates, as does ``keep_convs``; give
        ``restore_output=True`` for dense prediction, whose targets are of full size.
    ratios: of the images, tried in this order, from 1 to 4; 1 pools kernels on whole images. 2 and 1 are tried, and 4/3
        for a ladder, where nothing is said: short trial runs overrate 3 and 4 (docs/benchmarks/accuracy.md).
    modes: how many modes the plan has at most, full-mode counted. Of two, the low one comes first. Of more, the tried
        configurations follow each other by what their progress costs (``tuning.plan``), and the plain ramp (r = 2,
        4/3, full-size images; shares 0.5, 0.3, 0.2) is a candidate where its modes were tried: the plan is never one
        that these measurements say takes longer.
    time_budget: share of the full run's time, in (0, 1]: the plan that comes as far as any within it, where the
        cheapest one takes longer.
    measure: a step's cost by ``"time"`` (forward and backward, uncompiled) or by ``"macs"``; where a GPU runs small
        maps, which wait for launches, macs say more of compiled steps.
    autocast: ``torch.bfloat16`` where the run will be under autocast to it: costs depend on it.
    tail: share of the progress that stays full, in [0, 1].
    seconds: a cap; what was not reached is said in ``reasons``. run_steps: of the short run, instead of what fits.
    images: what holds images, as ``build_pair`` takes it.
    on_progress: told what is being done (a run, a candidate) and how much of the time is spent, in [0, 1].

    The model is left as it was. Raises ``ValueError`` where the arguments are out of range, for what is no
    batch, or where no candidate gives a pair.
    """
    steps_per_epoch = _length(loader) if steps_per_epoch is None else steps_per_epoch
    tried = RATIOS if ratios is None else tuple(ratios)
    tried = (*tried, *LADDER_RATIOS) if ratios is None and modes > 2 else tried
    _check(epochs, tail, seconds, tried, measure, steps_per_epoch, autocast)
    as_count("modes", modes, 2)
    as_number("time_budget", time_budget, above=0, most=1)
    base = LowModeConfig() if config is None else config
    start = time.monotonic()

    def tell(what: str) -> None:
        on_progress(what, min(1.0, (time.monotonic() - start) / seconds))

    tell("reading batches")
    probe = Probe(model, loader, criterion, optimizer, autocast=autocast, images=images)
    total = epochs * steps_per_epoch
    wanted = max(_LEAST_STEPS, run_steps or min(round(0.2 * total), 600))

    def in_time(step: int) -> bool:
        tell(f"short full run of {wanted} steps")
        return run_steps is not None or step < _LEAST_STEPS or time.monotonic() - start < _RUN_SHARE * seconds

    last = probe.run((wanted // 4, wanted), in_time)
    search = Search(
        probe=probe,
        measure=measure,
        total_steps=total,
        epochs=epochs,
        tail=tail,
        deadline=start + (_RUN_SHARE + _SEARCH_SHARE) / 2 * seconds,
        on_choice=lambda choice: tell(f"measuring {choice.name}"),
    )
    plain, _ = try_pair(probe.captured, replace(base, kernel_ratio=1))
    has_maxpool = plain is not None and bool(plain.report.of("drop_maxpools").skips)
    for choice in families(base, tried, has_maxpool):
        search.try_choice(choice)
    if not search.candidates:
        name, reason = next(iter(search.refused.items()))
        raise ValueError(f"no candidate gives a pair; {name}: {reason}")
    search.deadline = start + _SEARCH_SHARE * seconds
    pooled = [each for each in search.candidates if each.config.pools_kernels]
    if pooled:
        search.refine(min(pooled, key=lambda each: each.plan.time))
    reasons = _trial_runs(search, last, start + seconds, tell)
    if probe.losses[last] >= probe.losses[0]:
        reasons.insert(0, no_progress(probe.losses[0], probe.losses[last], last))
    return decide(search, Wanted(epochs, tail, modes, time_budget, seed), reasons, last / total)


def _trial_runs(search: Search, steps: int, deadline: float, tell: Callable[[str], None]) -> list[str]:
    """Trial runs of the smallest ratio with its kernels kept, the best of each other kind, then the winner weighted."""
    order = sorted(search.candidates, key=lambda each: each.plan.time)
    kinds: dict[tuple[object, ...], Candidate] = {}
    for each in order:
        kind = (each.config.ratio, each.config.downsample_input, each.config.pools_kernels)
        kinds.setdefault(kind, each)
    kept = [each for each in kinds.values() if not each.config.pools_kernels]
    control = min(kept, key=lambda each: largest_ratio(each.config.ratio), default=None)
    chosen = sorted(kinds.values(), key=lambda each: each is not control)
    lasted = 0.0
    done: list[Candidate] = []
    for candidate in chosen:
        began = time.monotonic()
        if done and began + lasted > deadline:
            return [f"time allowed for {len(done)} of {len(chosen)} trial runs"]
        tell(f"trial run of {candidate.name}")
        done.append(search.trial_run(candidate, steps, 1.0))
        lasted = time.monotonic() - began
    best = min(done, key=lambda each: each.plan.time)
    if time.monotonic() + lasted > deadline:
        return ["no time was left for a trial run of the winner with shorter low gradients"]
    weight = next(each.weight for each in chosen if each.config == best.config)
    if weight != 1:
        search.trial_run(best, steps, weight)
    return []


def _length(loader: Iterable[Batch]) -> int:
    if not isinstance(loader, Sized):
        raise ValueError("the loader has no length; give steps_per_epoch, the optimizer steps of one epoch")
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
            "autocast=torch.float16 would need a gradient scaler; give torch.bfloat16, whose cost is alike"
        )
    as_choice("measure", measure, get_args(CostMeasure))
    as_count("steps_per_epoch", steps_per_epoch, 1)
    as_count("epochs", epochs, 1)
    as_share("tail", tail)
    as_number("seconds", seconds, above=0)
    if not ratios or any(not 1 <= largest_ratio(ratio) <= LARGEST_RATIO for ratio in ratios):
        told = tuple(map(plain_ratio, ratios))
        raise OptionError("ratios", told, "is out of range", f"give numbers from 1 to {LARGEST_RATIO}, such as 2, 4/3")
