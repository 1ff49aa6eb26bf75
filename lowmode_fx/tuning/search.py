"""The search: every family first, then the stages and the sites of the best one that pay to pool."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.lower import pair_of
from lowmode_fx.tuning.candidates import Choice, graph_signature, stages, try_pair
from lowmode_fx.tuning.costs import CostMeasure, step_cost
from lowmode_fx.tuning.gain import StepProgress
from lowmode_fx.tuning.plan import ModeGain, Plan, gain_curve, make_plan, tail_at
from lowmode_fx.tuning.trials import Probe
from passes.ratios import largest_ratio
from passes.wording import one_line

#: A change of the set of sites that saves less than this share of the predicted time is noise.
LEAST_SAVING = 0.005
#: Range of the weight of low gradients.
LEAST_WEIGHT = 0.1


@dataclass(frozen=True)
class Candidate:
    """A measured configuration: its cost in full steps, its gain at each point, and the best plan with it.

    ``weight``: of its gradients. ``trials``: its gain by training, in a short and a longer run each, as often as they
    were run; the plan is then based on their means. ``family``: the name of the family that it is a part of, its own
    for a whole family. ``gain``: the gain that the plan uses, a function of the progress in (0, 1]. ``cost_error``: the
    standard error of ``cost``, NaN if it was not timed. ``notes``: those of its pair's report.
    """

    name: str
    config: LowModeConfig
    cost: float
    progress: tuple[StepProgress, ...]
    plan: Plan
    weight: float
    trials: tuple[tuple[float, ...], ...] = ()
    family: str = ""
    gain: Callable[[float], float] = field(default=lambda x: 0.0, repr=False, compare=False)
    cost_error: float = math.nan
    notes: tuple[str, ...] = ()

    @property
    def trial_gains(self) -> tuple[float, ...]:
        """The mean gain by training, in the short and in the longer runs; empty if there were none."""
        return tuple(map(statistics.fmean, zip(*self.trials, strict=True)))

    @property
    def trial_error(self) -> float:
        """The standard error of the gain in the longer runs; NaN for fewer than two."""
        longer = [each[-1] for each in self.trials]
        return statistics.stdev(longer) / math.sqrt(len(longer)) if len(longer) > 1 else math.nan

    def mode_gain(self, tail: float) -> ModeGain:
        """The input of a plan over several modes; ``tail``: share that is left to larger images at r = 2.

        A mode that pools kernels leaves as much, at least: full-mode has to adapt to their whole size, too.
        """
        side = largest_ratio(self.config.ratio) if self.config.downsample_input else 1
        return ModeGain(self.gain, self.cost, tail_at(max(side, 2) if self.config.pools_kernels else side, tail))


@dataclass
class Search:
    """What has been tried. ``refused`` holds the reasons of configurations without a correct low mode.

    ``looked_at``: the number of whole families that were measured, are equal to one that was, or were refused.
    ``left_out``: what there was no time for.
    """

    probe: Probe
    measure: CostMeasure
    total_steps: int
    epochs: int
    tail: float
    deadline: float
    on_choice: Callable[[Choice], None] = lambda choice: None
    candidates: list[Candidate] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    looked_at: int = 0
    left_out: list[Choice] = field(default_factory=list)
    _seen: set[tuple[object, ...]] = field(default_factory=set)

    def best(self) -> Candidate | None:
        """The candidate with the shortest predicted time."""
        return min(self.candidates, key=lambda candidate: candidate.plan.time, default=None)

    def try_choice(self, choice: Choice) -> Candidate | None:
        """Measure one, unless the time is up, it gives no pair, or its pair was already tried."""
        if self.candidates and time.monotonic() > self.deadline:
            self.left_out.append(choice)
            return None
        self.looked_at += not choice.family
        pair, reason = try_pair(self.probe.captured, choice.config)
        if pair is None:
            self.refused[choice.name] = reason
            return None
        signature = graph_signature(pair)
        if signature in self._seen:
            return None
        self._seen.add(signature)
        self.on_choice(choice)
        candidate = self._measured(choice, pair)
        self.candidates.append(candidate)
        return candidate

    def _measured(self, choice: Choice, pair: ModePair) -> Candidate:
        probe = self.probe
        try:
            cost, spread = step_cost(pair, probe.batches[0], probe.criterion, self.measure, autocast=probe.autocast)
            progress = probe.progress(pair)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{choice.name} can't be measured: {one_line(error)}; if targets have full size, as "
                "in dense prediction, give config=LowModeConfig(restore_output=True)"
            ) from error
        curve = gain_curve(self._points(progress))
        plan = make_plan([ModeGain(curve, cost, self.tail)], self.epochs)
        # At the last point, from where the run continues; within limits, since gradients are few and noisy.
        weight = min(max(progress[-1].weight, LEAST_WEIGHT), 1.0)
        return Candidate(
            choice.name,
            choice.config,
            cost,
            progress,
            plan,
            round(weight, 3),
            family=choice.family or choice.name,
            gain=curve,
            cost_error=spread,
            notes=pair.report.notes,
        )

    def _points(self, progress: Sequence[StepProgress]) -> list[tuple[float, float]]:
        places = [min(1.0, point.step / self.total_steps) for point in self.probe.points]
        return [(x, each.gain) for x, each in zip(places, progress, strict=True)]

    def trial_run(self, candidate: Candidate, steps: int, weight: float) -> Candidate:
        """The candidate with a plan based on training: runs of ``steps / 2`` and ``steps`` steps, mostly low.

        Trial runs that it had with this weight are repeated on other batches, and the plan follows from all of them.
        """
        before = candidate.trials if weight == candidate.weight else ()
        pair = pair_of(self.probe.captured, candidate.config)
        lengths = (max(2, steps // 2), steps)
        trials = (*before, tuple(self.probe.trial_run(pair, length, weight, len(before)) for length in lengths))
        tried = replace(candidate, trials=trials, weight=weight)
        # The gain falls later, below its mean over a trial run; the full tail compensates. What the longer
        # one adds to the shorter would be the local gain, but as a difference of two noisy means it misleads.
        places = (min(1.0, length / self.total_steps) for length in lengths)
        curve = gain_curve(list(zip(places, tried.trial_gains, strict=True)))
        plan = make_plan([ModeGain(curve, candidate.cost, self.tail)], self.epochs)
        tried = replace(tried, plan=plan, gain=curve)
        # Training is better evidence than gradients: it replaces them, but not a trial run with another weight.
        if before or not candidate.trials:
            self.candidates.remove(candidate)
        self.candidates.append(tried)
        return tried

    def refine(self, family: Candidate) -> None:
        """Which stages of a pooled family to pool, then which sites, greedily by predicted time."""
        by_size = stages(pair_of(self.probe.captured, family.config))
        alone = {}
        for size, names in by_size.items():
            tried = self.try_choice(_with_sites(family, names, f"{family.name}: only maps of {size}"))
            if tried is not None:
                alone[size] = tried
        order = sorted(alone, key=lambda size: alone[size].plan.time)
        for count in range(2, len(order)):
            names = tuple(name for size in order[:count] for name in by_size[size])
            self.try_choice(_with_sites(family, names, f"{family.name}: maps of {', '.join(order[:count])}"))
        self._refine_sites(family, [name for names in by_size.values() for name in names])

    def _refine_sites(self, family: Candidate, every: Sequence[str]) -> None:
        """Leave out one site at a time, from the last stage's last, and keep it out if that saves time."""
        best = self.best()
        if best is None or best.family != family.name:
            return  # the tuner would choose no part of this family
        chosen = list(every) if isinstance(best.config.pool_convs, str) else list(best.config.pool_convs)
        for name in list(chosen):
            rest = tuple(other for other in chosen if other != name)
            if not rest:
                break
            tried = self.try_choice(_with_sites(family, rest, f"{family.name}: {len(rest)} sites, without {name}"))
            if self.left_out:
                break
            if tried is not None and tried.plan.time < best.plan.time * (1 - LEAST_SAVING):
                best, chosen = tried, list(rest)


def _with_sites(family: Candidate, names: Sequence[str], title: str) -> Choice:
    return Choice(title, replace(family.config, pool_convs=tuple(names)), family.name)
