"""``tune``: measure what low steps gain on a user's model and data, and plan a run from it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import nn

from lowmode_fx.capture.images import Argument
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.pair import build_ladder
from lowmode_fx.runtime.schedules import BernoulliSchedule, LadderSchedule, schedule_from_dict
from lowmode_fx.tuning.agreement import Criterion
from lowmode_fx.tuning.batches import Batch
from lowmode_fx.tuning.candidates import families, try_pair
from lowmode_fx.tuning.costs import CostMeasure
from lowmode_fx.tuning.ladder_plan import Chosen, choose, ramp
from lowmode_fx.tuning.search import Candidate, Search
from lowmode_fx.tuning.trials import OptimizerFactory, Probe
from lowmode_fx.tuning.tried_ratios import LADDER_RATIOS, LARGEST_RATIO, RATIOS
from lowmode_fx.utils.validation import as_choice, as_count, as_number, as_share
from passes.errors import OptionError
from passes.ratios import RatioLike, largest_ratio, plain_ratio
from passes.spelling import setting

#: Shares of the time: the short full run, then the search; trial runs take the rest.
_RUN_SHARE, _SEARCH_SHARE = 0.35, 0.6
#: Of the short run: below it a trial run has hardly a low step.
_LEAST_STEPS = 8
#: Low steps are no use below this saving of time: noise is larger.
_LEAST_SAVING = 0.05


@dataclass(frozen=True)
class Tuning:
    """What the tuner chose: low modes, a schedule over ``epochs`` epochs, a weight for low gradients; and why.

    ``config``: of the cheapest low mode. ``more``: of the others, rising in cost. ``time``: predicted, as a share of
    the time of the full run that it is to match. ``candidates``: all that was measured, best first. ``refused``:
    configurations that give no pair, with the reason. ``measured_on``: plain values that tell the model and the data,
    if whoever called ``tune`` noted them.
    """

    config: LowModeConfig
    schedule: BernoulliSchedule | LadderSchedule
    low_weight: float
    epochs: int
    time: float
    more: tuple[LowModeConfig, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    reasons: tuple[str, ...] = ()
    measured_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def configs(self) -> tuple[LowModeConfig, ...]:
        """Of every low mode, the cheapest first."""
        return self.config, *self.more

    def build(self, model: nn.Module, example: Any, *, images: Argument | Iterable[Argument] | None = None) -> Ladder:
        """The ladder that the schedule is for, as ``build_ladder`` makes it."""
        return build_ladder(model, example, self.configs, images=images)

    def to_dict(self) -> dict[str, Any]:
        """What a run needs, in JSON's values; not the candidates."""
        return {
            "config": self.config.to_dict(),
            "more": [config.to_dict() for config in self.more],
            "schedule": self.schedule.to_dict(),
            "low_weight": self.low_weight,
            "epochs": self.epochs,
            "time": self.time,
            "reasons": list(self.reasons),
            **({"measured_on": dict(self.measured_on)} if self.measured_on else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tuning:
        """The inverse of ``to_dict``. Raises ``ValueError`` for what ``tune`` did not write."""
        try:
            config, schedule = LowModeConfig.from_dict(values["config"]), schedule_from_dict(values["schedule"])
            more = tuple(map(LowModeConfig.from_dict, values.get("more", ())))
            weight, epochs, predicted = values["low_weight"], values["epochs"], values["time"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"no result of `lowmode-fx tune`: {error} is missing or of another kind") from error
        if not isinstance(schedule, LadderSchedule if more else BernoulliSchedule):
            kind = "a ladder's" if more else "Bernoulli's"
            raise ValueError(f"no result of `lowmode-fx tune`: its schedule is not {kind}")
        reasons, source = tuple(values.get("reasons", ())), values.get("measured_on", {})
        if not isinstance(source, Mapping):
            raise ValueError("no result of `lowmode-fx tune`: its measured_on is no mapping")
        return cls(config, schedule, weight, epochs, predicted, more, reasons=reasons, measured_on=source)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)


@dataclass(frozen=True)
class _Settings:
    """Of a plan."""

    epochs: int
    tail: float
    modes: int
    time_budget: float
    seed: int


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
        for a ladder, where nothing is said: short trial runs overrate 3 and 4 (README.md, Accuracy in time).
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
        reasons.insert(0, _no_progress(probe.losses[0], probe.losses[last], last))
    settings = _Settings(epochs, tail, modes, time_budget, seed)
    return _decide(search, settings, reasons, last / total)


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


def _decide(search: Search, settings: _Settings, reasons: list[str], seen: float) -> Tuning:
    tried = [each for each in search.candidates if each.trial_gains]
    epochs, seed = settings.epochs, settings.seed
    chosen = choose(tried, epochs, settings.tail, settings.modes, settings.time_budget)
    order = sorted(search.candidates, key=lambda each: (not each.trial_gains, each.plan.time))
    if search.stopped:
        reasons.append("time was up before every configuration was tried")
    for each in chosen.candidates:
        reasons.append(
            f"{each.name}: a low step costs {each.cost:.2f} of a full one, and in trial runs gained "
            f"{each.trial_gains[0]:.2f} of one over {seen / 2:.0%} of the run and {each.trial_gains[-1]:.2f} over "
            f"{seen:.0%}, its gradients multiplied by {each.weight:g}"
        )
    configs = tuple(each.config for each in chosen.candidates)
    whole = chosen.whole_epochs()
    predicted = chosen.whole_time / epochs
    measured = partial(
        Tuning, candidates=tuple(order), refused=tuple(search.refused.items()), config=configs[0], more=configs[1:]
    )
    if predicted > 1 - _LEAST_SAVING and settings.time_budget == 1:
        reasons.append(
            f"low steps would save {max(0.0, 1 - predicted):.0%} of the time in whole epochs, which is noise: train in "
            "full-mode (p = 0)"
        )
        never = BernoulliSchedule(0.0, seed)
        return measured(schedule=never, low_weight=1.0, epochs=epochs, time=1.0, more=(), reasons=tuple(reasons))
    reasons += _plan_in_words(chosen, whole, predicted, settings, ramp(tried, settings.tail))
    schedule: BernoulliSchedule | LadderSchedule
    if len(configs) == 1:
        schedule = BernoulliSchedule([1.0] * whole[0] + [0.0] * whole[1], seed)
    else:
        schedule = LadderSchedule(whole)
    weight = chosen.candidates[0].weight if len(configs) == 1 else 1.0
    return measured(schedule=schedule, low_weight=weight, epochs=sum(whole), time=predicted, reasons=tuple(reasons))


def _plan_in_words(
    chosen: Chosen, whole: Sequence[int], predicted: float, settings: _Settings, plain: float | None
) -> list[str]:
    low = " and ".join(f"{n} {_epochs(n)} of {each.name}" for n, each in zip(whole, chosen.candidates, strict=False))
    low = f"{whole[0]} low {_epochs(whole[0])}" if len(whole) == 2 else low
    tail = f"{whole[-1]} full {_epochs(whole[-1])}"
    words = [
        f"{low} come as far as {chosen.reached * chosen.plan.share:.1f} full ones, {tail} at the end: "
        f"about {predicted:.0%} of the time of {settings.epochs} full {_epochs(settings.epochs)}"
    ]
    if chosen.reached < settings.epochs:
        words.append(
            f"in {settings.time_budget:.0%} of the time a run comes as far as {chosen.reached:.1f} of "
            f"{settings.epochs} full epochs"
        )
    elif settings.modes > 2 and plain is not None:
        words.append(f"the plain ramp, r = 2, 4/3 and 1 for a half, three tenths and a fifth, would take {plain:.0%}")
    return words


def _no_progress(first: float, loss: float, steps: int) -> str:
    return (
        f"warning: the short full run did not learn (loss {first:.3g}, after {steps} steps {loss:.3g}), and what "
        f"follows is noise: give another {setting('lr')}, or more {setting('epochs')}"
    )


def _epochs(count: int) -> str:
    return "epoch" if count == 1 else "epochs"


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
