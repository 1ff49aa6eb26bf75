"""The search: every family first, then the stages and the sites of the best one that pay to pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.lower import pair_of
from lowmode_fx.runtime.batch_growth import LrRule
from lowmode_fx.tuning.batches import Call
from lowmode_fx.tuning.candidate import Candidate
from lowmode_fx.tuning.candidates import Choice, graph_signature, stages, try_pair
from lowmode_fx.tuning.costs import CostMeasure, MeasuredCost, StepKind, step_cost
from lowmode_fx.tuning.gain import StepProgress
from lowmode_fx.tuning.growth import LEAST_SAVED, JoinError, TriedMultiplier, grown_batch, growth_of, times
from lowmode_fx.tuning.plan import ModeGain, gain_curve, make_plan
from lowmode_fx.tuning.trials import Probe
from lowmode_fx.utils.tables import with_error
from passes.wording import one_line

#: A change of the set of sites that saves less than this share of the predicted time is noise.
LEAST_SAVING = 0.005
#: The standard error of a cost, as a share of it, above which it is timed again for so many rounds.
SURE, MOST_ROUNDS = 0.03, 25
#: Range of the weight of low gradients.
LEAST_WEIGHT = 0.1


@dataclass
class Search:
    """What has been tried. ``refused`` holds the reasons of configurations without a correct low mode.

    ``looked_at``: the number of whole families that were measured, are equal to one that was, or were refused.
    ``left_out``: what there was no time for. ``batch_multiplier``, ``lr_rule``: the larger batches of low steps to try,
    as in ``tune``. ``growth_told``: why some are not, a line each.
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
    batch_multiplier: TriedMultiplier = 1.0
    lr_rule: LrRule = "linear"
    growth_told: list[str] = field(default_factory=list)
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
            cost, spread = self._cost(pair)
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
        lengths, trial_run = (max(2, steps // 2), steps), self.probe.trial_run
        trials = (*before, tuple(trial_run(pair, length, weight, len(before), candidate.growth) for length in lengths))
        tried = replace(candidate, trials=trials, weight=weight)
        # The gain falls later, below its mean over a trial run; the full tail compensates. What the longer
        # one adds to the shorter would be the local gain, but as a difference of two noisy means it misleads.
        places = (min(1.0, length / self.total_steps) for length in lengths)
        curve = gain_curve(list(zip(places, tried.trial_gains, strict=True)))
        plan = make_plan([ModeGain(curve, candidate.cost, self.tail)], self.epochs)
        tried = replace(tried, plan=plan, gain=curve)
        # Training is better evidence than gradients: it replaces them, but not a trial run with another weight.
        if (before or not candidate.trials) and candidate in self.candidates:
            self.candidates.remove(candidate)
        self.candidates.append(tried)
        return tried

    def surely_priced(self, candidate: Candidate) -> Candidate:
        """The candidate with a cost that was timed for longer, if it isn't sure: a plan rests on what is tried."""
        if not candidate.cost_error > SURE * candidate.cost:
            return candidate
        cost, spread = self._cost(pair_of(self.probe.captured, candidate.config), rounds=MOST_ROUNDS)
        return self.replaced(candidate, replace(candidate, cost=cost, cost_error=spread))

    def grown(self, candidate: Candidate) -> Candidate | None:
        """The candidate with larger batches in low steps, not tried yet; ``None`` if they would save too little.

        What as many images cost is timed first: where it falls by less than a tenth, fewer steps can't pay.
        """
        if times(candidate.growth) != 1 or self.batch_multiplier == 1:
            return None
        if self.measure == "macs":
            self._tell("larger batches were not tried, for only timed costs show what they save")
            return None
        probe, pair = self.probe, pair_of(self.probe.captured, candidate.config)
        growth = growth_of(pair, self.batch_multiplier, self.lr_rule)
        if times(growth) == 1:
            return None  # images of full size
        batch = grown_batch(probe.batches, growth)
        if batch is None:
            self._tell("larger batches were not tried, for batches can't be joined: something has no item an image")
            return None
        larger, now = f"batches of {times(growth):.3g} × the images", with_error(candidate.cost, candidate.cost_error)
        first = probe.batches[0]
        try:
            found = self._cost(pair, low_batch=batch)
        except torch.OutOfMemoryError:
            self._tell(f"{candidate.name}: {larger} don't fit in memory")
            return None
        cost, spread = found.of_as_many(batch.images, first.images)
        if cost > (1 - LEAST_SAVED) * candidate.cost:
            self._tell(
                f"{candidate.name}: {larger} were not tried, for as many images then cost {with_error(cost, spread)} "
                f"of a full step, and {now} in batches of the same size"
            )
            return None
        name = f"{candidate.name}, {times(growth):.3g} × the images a step"
        return replace(candidate, name=name, cost=cost, cost_error=spread, growth=growth, trials=())

    def grown_trial_run(self, grown: Candidate, steps: int) -> None:
        """A first trial run in larger batches, which later batches of the loader may not allow."""
        try:
            self.trial_run(grown, steps, grown.weight)
        except (JoinError, torch.OutOfMemoryError) as error:
            what = "batches don't fit in memory" if isinstance(error, torch.OutOfMemoryError) else one_line(error)
            self._tell(f"{grown.name}: the trial run ended early: {what}")

    def step_kind(self, compiled: bool = False) -> StepKind:
        """How steps are timed: as the run will make them, but for compilation."""
        return StepKind(self.probe.optimizer, self.probe.autocast, compiled)

    def replaced(self, candidate: Candidate, by: Candidate) -> Candidate:
        """``by``, in the candidate's place."""
        self.candidates = [by if each is candidate else each for each in self.candidates]
        return by

    def _cost(self, pair: ModePair, rounds: int = 5, low_batch: Call | None = None) -> MeasuredCost:
        batch, criterion, kind = self.probe.batches[0], self.probe.criterion, self.step_kind()
        return step_cost(pair, batch, criterion, kind, self.measure, rounds=rounds, low_batch=low_batch)

    def _tell(self, line: str) -> None:
        if line not in self.growth_told:
            self.growth_told.append(line)

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
