"""Which candidates have trial runs, in which order, and which of them again, while there is time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from lowmode_fx.tuning.candidate import Candidate
from lowmode_fx.tuning.decide import Wanted, planned
from lowmode_fx.tuning.search import Search
from lowmode_fx.tuning.worth_pooling import may_be_worth
from passes.ratios import largest_ratio
from passes.spelling import setting

#: Trial runs of each mode of the plan: one alone is as likely to be chosen for its luck as for its gain.
REPEATS = 3


def trial_runs(search: Search, wanted: Wanted, steps: int, deadline: float, tell: Callable[[str], None]) -> list[str]:
    """Trial runs of the smallest ratio with its kernels kept, then of the best of each other kind.

    The modes of the plan that follows are tried in larger batches, where those save time, and the modes of the best
    plan again, on other batches, until each has had three trial runs; at last the winner with weighted gradients. For a
    ladder, pooled kernels are tried only if they may be worth it. Returns what was left out, a line each.
    """
    runs = _Runs(search, wanted, steps, deadline, tell)
    chosen = _one_of_each_kind(search.candidates)
    done: list[Candidate] = []
    told: list[str] = []
    for candidate in map(search.surely_priced, chosen):
        if wanted.modes > 2 and not may_be_worth(candidate, done):
            told.append(
                f"{candidate.name}: not tried, for at a cost of {candidate.cost:.2f} it can't save a third of the cost "
                "of progress with kernels kept, as pooled kernels of a ladder have to"
            )
        elif done and not runs.in_time():
            runs_of = f"trial runs of {len(done)} of {len(chosen) - len(told)} candidates"
            short = f"the advice rests on {runs_of}: there was no time for the others; give more {setting('seconds')}"
            return [*told, short]
        else:
            done.append(runs.run(candidate, 1.0))
    for candidate in planned(search, wanted).candidates:
        grown = search.grown(candidate)
        if grown is None:
            continue
        if not runs.in_time():
            return [*told, f"no time was left for a trial run of {grown.name}; give more {setting('seconds')}"]
        runs.run_grown(grown)
    if unsure := runs.repeat():
        return [*told, unsure]
    best = min((each for each in search.candidates if each.trials), key=lambda each: each.plan.time)
    weight = next(each.weight for each in chosen if each.config == best.config)
    if weight == 1:
        return told
    if not runs.in_time():
        return [*told, "no time was left for a trial run of the best candidate with weighted low gradients"]
    runs.run(best, weight)
    unsure = runs.repeat()
    return [*told, unsure] if unsure else told


class _Runs:
    """Trial runs of ``steps`` steps until ``deadline``: none begins that would end later than the longest before it."""

    def __init__(
        self, search: Search, wanted: Wanted, steps: int, deadline: float, tell: Callable[[str], None]
    ) -> None:
        self._search, self._wanted, self._steps, self._deadline, self._tell = search, wanted, steps, deadline, tell
        self._longest = 0.0

    def in_time(self) -> bool:
        return time.monotonic() + self._longest <= self._deadline

    def run(self, candidate: Candidate, weight: float) -> Candidate:
        began = time.monotonic()
        weighted = f", its gradients × {weight:g}" if weight != 1 else ""
        number = f", number {len(candidate.trials) + 1}" if candidate.trials and weight == candidate.weight else ""
        self._tell(f"trial run of {candidate.name}{weighted}{number}")
        tried = self._search.trial_run(candidate, self._steps, weight)
        self._longest = max(self._longest, time.monotonic() - began)
        return tried

    def run_grown(self, grown: Candidate) -> None:
        began = time.monotonic()
        self._tell(f"trial run of {grown.name}")
        self._search.grown_trial_run(grown, self._steps)
        self._longest = max(self._longest, time.monotonic() - began)

    def repeat(self) -> str:
        """Try the modes of the plan until each has had enough trial runs; what there was no time for, or nothing."""
        while again := _tried_least(planned(self._search, self._wanted).candidates):
            if not self.in_time():
                return (
                    f"the gain of {again.name} rests on {len(again.trials)} of {REPEATS} trial runs, which differ by "
                    f"chance: there was no time for more; give more {setting('seconds')}"
                )
            self.run(again, again.weight)
        return ""


def _tried_least(candidates: Sequence[Candidate]) -> Candidate | None:
    """The one with the fewest trial runs, if it has had less than it should."""
    least = min(candidates, key=lambda each: len(each.trials))
    return least if len(least.trials) < REPEATS else None


def _one_of_each_kind(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidate with the shortest predicted time of each ratio, with kernels kept and pooled.

    The control comes first, which is the smallest ratio with kernels kept, then the shortest time.
    """
    kinds: dict[tuple[object, ...], Candidate] = {}
    for each in sorted(candidates, key=lambda each: each.plan.time):
        kind = (each.config.ratio, each.config.downsample_input, each.config.pools_kernels)
        kinds.setdefault(kind, each)
    kept = [each for each in kinds.values() if not each.config.pools_kernels]
    control = min(kept, key=lambda each: largest_ratio(each.config.ratio), default=None)
    return sorted(kinds.values(), key=lambda each: each is not control)
