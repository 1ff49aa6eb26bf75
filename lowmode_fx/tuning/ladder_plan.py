"""Chooses which of the tried modes follow each other, and for how long: the plan of a whole run."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowmode_fx.lowering.rung_names import rung_names
from lowmode_fx.runtime.schedules import LadderSchedule
from lowmode_fx.tuning.candidate import Candidate
from lowmode_fx.tuning.plan import Plan, make_plan, ramp_plan
from lowmode_fx.tuning.tried_ratios import RAMP_RATIOS
from lowmode_fx.tuning.worth_pooling import worth_pooling

#: Maximum low epochs over the full run's epochs: for several modes, the later of which gain nearly as much as
#: full-mode does, and for a single one.
MOST_LOW, MOST_LOW_ALONE = 1.5, 1.0
#: Share of the full run's time that one more mode has to save.
LEAST_GAIN = 0.01
#: A smaller saving of time than this share is noise: low steps are not used.
LEAST_SAVING = 0.05
#: Share of the full run's time that a plan has to save beside the plain ramps, which whole runs have shown to work.
#: Trial runs see the start of a run alone, and plans that they put a little below a ramp ended a point lower in as much
#: time (docs/benchmarks/accuracy.md).
DEPARTURE = 0.1
#: Share of full-mode's last epoch that may be missing.
ROUNDED_OFF = 0.1
#: Steps by which the length of a run within a budget is found, to a thousandth of an epoch.
_HALVINGS = 15
#: Largest ``tail`` with which the plain ramps are candidates: a longer one asks for more than they leave.
RAMP_TAIL = 0.5
_WHOLE_TIME: Callable[[Chosen], float] = operator.attrgetter("whole_time")
_TIME: Callable[[Chosen], float] = operator.attrgetter("time")


@dataclass(frozen=True)
class Chosen:
    """Low modes, cheapest first, with their plan.

    ``reached``: the equivalent full epochs of the run; fewer than requested if the time is limited. ``plain``: whether
    it is one of the plain ramps.
    """

    candidates: tuple[Candidate, ...]
    plan: Plan
    reached: float
    plain: bool = False

    def whole_epochs(self) -> list[int]:
        """Epochs of each low mode, the nearest number, and of full-mode, which makes up for what that changes.

        A tenth of a full epoch is rounded off: it is less than the noise of the gains.
        """
        *low, full = self.plan.epochs
        whole = [max(1, math.floor(number + 0.5)) if number > 1e-9 else 0 for number in low]
        settled = math.ceil(full - self._gained(whole) - ROUNDED_OFF)
        return [*whole, max(settled, 1) if full > 0 else 0]

    @property
    def replaced(self) -> float:
        """The full epochs that the low ones of ``whole_epochs`` are worth."""
        return self.reached * self.plan.share + self._gained(self.whole_epochs()[:-1])

    def _gained(self, whole: Sequence[int]) -> float:
        """What rounding the plan's low epochs to these adds, in full epochs."""
        gains = (each.gain(max(self.plan.share, 1e-9)) for each in self.candidates)
        added = map(operator.sub, whole, self.plan.epochs)
        return math.fsum(map(operator.mul, added, gains))

    @property
    def trusted(self) -> bool:
        """Whether it is a plain ramp each mode of which pays."""
        return self.plain and all(each.cost_of_progress < 1 for each in self.candidates)

    @property
    def whole_time(self) -> float:
        """Time of the run in whole epochs, in full epochs."""
        costs = [*(each.cost for each in self.candidates), 1.0]
        return math.fsum(map(operator.mul, self.whole_epochs(), costs))

    @property
    def time(self) -> float:
        """Time of the whole run, in full epochs."""
        return self.plan.time * self.reached


def choose(tried: Sequence[Candidate], epochs: int, tail: float, modes: int, time_budget: float = 1.0) -> Chosen:
    """The fastest plan equivalent to ``epochs`` full epochs, or to as many as the budget allows.

    ``tried``: candidates with trial runs. ``tail``: share of the progress that is left to larger images than r = 2.
    ``modes``: maximum number, full-mode included. ``time_budget``: share of the time of ``epochs`` full epochs, above
    0.
    """
    tried = tried if modes == 2 else worth_pooling(tried)
    best = _cheapest(tried, epochs, tail, modes)
    limit = time_budget * epochs
    if time_budget == 1 or best.whole_time <= limit:
        return best
    # A shorter run of the same kind: its gains fall over its own, shorter length. In whole epochs, or in parts of them
    # if whole ones take longer.
    reached = 0.0
    for time in (_WHOLE_TIME, _TIME):
        reached, most = 0.0, float(epochs)
        for _ in range(_HALVINGS):
            middle = (reached + most) / 2
            fits = time(_cheapest(tried, middle, tail, modes)) <= limit
            reached, most = (middle, most) if fits else (reached, middle)
        if reached > 0:
            break
    return _cheapest(tried, reached, tail, modes)


def ramp(tried: Sequence[Candidate], epochs: float, tail: float, modes: int = 3) -> Chosen | None:
    """``LadderSchedule.default`` of 3 or 4 modes, as long as ``epochs`` full epochs' progress takes.

    Of a mode that was tried in several ways (gradient weights, larger batches), the one whose progress costs least.
    ``None`` if its modes were not tried, or make no progress.
    """
    kept: dict[object, Candidate] = {}
    for each in sorted(tried, key=lambda each: each.cost_of_progress):
        if not each.config.pools_kernels:
            kept.setdefault(each.config.ratio, each)
    ratios = RAMP_RATIOS[modes]
    if not all(ratio in kept for ratio in ratios):
        return None
    chosen = tuple(kept[ratio] for ratio in ratios)
    plan = ramp_plan([each.mode_gain(tail) for each in chosen], LadderSchedule.SHARES[modes], epochs)
    return None if plan is None else Chosen(chosen, plan, epochs, plain=True)


def in_order(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The order of a ladder: the smallest images first, pooled kernels before kept ones."""
    places = {id(config): place for place, (_, config) in enumerate(rung_names([each.config for each in candidates]))}
    return tuple(sorted(candidates, key=lambda each: places[id(each.config)]))


def _cheapest(tried: Sequence[Candidate], epochs: float, tail: float, modes: int) -> Chosen:
    found = []
    for count in range(1, modes):
        for some in itertools.combinations(tried, count):
            if len({id(each.config) for each in some}) < count:
                continue  # the same mode twice, with different gradient weights or batches
            ordered = in_order(some)
            gains = [each.mode_gain(tail) for each in ordered]
            plan = make_plan(gains, epochs, MOST_LOW if count > 1 else MOST_LOW_ALONE)
            used = [bool(share) for share in plan.epochs[:-1]]
            if all(used) or count == 1:
                found.append(Chosen(ordered, plan, epochs))
    ramps = (ramp(tried, epochs, tail, count) for count in RAMP_RATIOS if count <= modes and tail <= RAMP_TAIL)
    found += [plain for plain in ramps if plain is not None and plain.plan.low_epochs <= MOST_LOW * epochs]
    # One more mode has to save time in whole epochs, and more than noise.
    trusted = [each for each in found if each.trusted and each.whole_time <= (1 - LEAST_SAVING) * epochs]

    def key(each: Chosen) -> float:
        departs = bool(trusted) and each not in trusted
        return each.whole_time + epochs * (LEAST_GAIN * len(each.candidates) + DEPARTURE * departs)

    return min(found, key=key)
