"""Prices of a plan's modes as a compiled run has them: compiled, all in one run, with the run's batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lowmode_fx.lowering.lower import ladder_of
from lowmode_fx.lowering.rung_names import rung_names
from lowmode_fx.tuning.candidate import Candidate
from lowmode_fx.tuning.costs import step_costs
from lowmode_fx.tuning.decide import Wanted, planned
from lowmode_fx.tuning.growth import grown_batch, times
from lowmode_fx.tuning.plan import ModeGain, make_plan
from lowmode_fx.tuning.search import Search

#: Times that a plan is priced: it may change by its compiled prices, and then has modes without one.
_PLANS = 3
#: Timed rounds of every mode: compilation takes so much longer that prices can be sure.
_ROUNDS = 15


def price_compiled(search: Search, wanted: Wanted, tell: Callable[[str], None]) -> list[str]:
    """Time the modes of the plan compiled, and those of the plan that follows, until it has no other.

    Modes outside the plan keep their uncompiled prices, and nothing is compiled for a plan that saves no time. Returns
    what is left of it, a line each.
    """
    for _ in range(_PLANS):
        plan = planned(search, wanted)
        if plan.whole_time >= wanted.epochs or all(each.compiled for each in plan.candidates):
            return []
        tell(f"compiling the plan's {len(plan.candidates) + 1} modes")
        _price(search, plan.candidates)
    others = [each.name for each in planned(search, wanted).candidates if not each.compiled]
    return [f"{name}: its cost was timed uncompiled, for the plan changed by compiled costs" for name in others]


def _price(search: Search, candidates: Sequence[Candidate]) -> None:
    """Time these modes beside each other; each candidate's own plan follows."""
    probe = search.probe
    named = rung_names([each.config for each in candidates])
    modes = {id(config): mode for mode, config in named}
    first = probe.batches[0]
    batches = {}
    for each in candidates:
        grown = grown_batch(probe.batches, each.growth) if times(each.growth) != 1 else None
        batches[modes[id(each.config)]] = first if grown is None else grown
    ladder, kind = ladder_of(probe.captured, named), search.step_kind(compiled=True)
    found = step_costs(ladder, first, probe.criterion, kind, _ROUNDS, batches)
    for each in candidates:
        mode = modes[id(each.config)]
        cost, spread = found[mode].of_as_many(batches[mode].images, first.images)
        plan = make_plan([ModeGain(each.gain, cost, search.tail)], search.epochs)
        search.replaced(each, replace(each, cost=cost, cost_error=spread, plan=plan, compiled=True))
