"""Which candidates have trial runs, in which order, and which of them again, while there is time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from lowmode_fx.tuning.candidate import Candidate
from lowmode_fx.tuning.decide import Wanted, planned
from lowmode_fx.tuning.search import Search
from passes.ratios import largest_ratio
from passes.spelling import setting

#: Trial runs of each mode of the plan: one alone is as likely to be chosen for its luck as for its gain.
REPEATS = 3


def trial_runs(search: Search, wanted: Wanted, steps: int, deadline: float, tell: Callable[[str], None]) -> list[str]:
    """Trial runs of the smallest ratio with its kernels kept, the best of each other kind, then the winner weighted.

    The modes of the plan that follows are tried in larger batches, where those save time, and the modes of the best
    plan again, on other batches, until each has had three trial runs. Returns what there was no time for, a line each.
    """
    longest = 0.0

    def run(candidate: Candidate, weight: float) -> Candidate:
        nonlocal longest
        began = time.monotonic()
        tell(f"trial run of {candidate.name}" + (f", number {len(candidate.trials) + 1}" if candidate.trials else ""))
        tried = search.trial_run(candidate, steps, weight)
        longest = max(longest, time.monotonic() - began)
        return tried

    def in_time() -> bool:
        return time.monotonic() + longest <= deadline

    chosen = _one_of_each_kind(search.candidates)
    done: list[Candidate] = []
    for candidate in chosen:
        if done and not in_time():
            return [
                f"the advice rests on trial runs of {len(done)} of {len(chosen)} candidates: there was no time for the "
                f"others; give more {setting('seconds')}"
            ]
        done.append(run(candidate, 1.0))
    best = min(done, key=lambda each: each.plan.time)
    weight = next(each.weight for each in chosen if each.config == best.config)
    if weight != 1:
        if not in_time():
            return ["no time was left for a trial run of the best candidate with weighted low gradients"]
        run(best, weight)
    for candidate in planned(search, wanted).candidates:
        grown = search.grown(candidate)
        if grown is None:
            continue
        if not in_time():
            return [f"no time was left for a trial run of {grown.name}; give more {setting('seconds')}"]
        run(grown, grown.weight)
    while again := _tried_least(planned(search, wanted).candidates):
        if not in_time():
            return [
                f"the gain of {again.name} rests on {len(again.trials)} of {REPEATS} trial runs, which differ by "
                f"chance: there was no time for more; give more {setting('seconds')}"
            ]
        run(again, again.weight)
    return []


def _tried_least(candidates: Sequence[Candidate]) -> Candidate | None:
    """The one with the fewest trial runs, if it has had less than it should."""
    least = min(candidates, key=lambda each: len(each.trials))
    return least if len(least.trials) < REPEATS else None


def _one_of_each_kind(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidate with the shortest predicted time of each ratio, with kernels kept and pooled; the control first.

    That is the smallest ratio with kernels kept.
    """
    kinds: dict[tuple[object, ...], Candidate] = {}
    for each in sorted(candidates, key=lambda each: each.plan.time):
        kind = (each.config.ratio, each.config.downsample_input, each.config.pools_kernels)
        kinds.setdefault(kind, each)
    kept = [each for each in kinds.values() if not each.config.pools_kernels]
    control = min(kept, key=lambda each: largest_ratio(each.config.ratio), default=None)
    return sorted(kinds.values(), key=lambda each: each is not control)
