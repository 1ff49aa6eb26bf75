"""A plan in words: how many low epochs stand for how many full ones, also where that is hardly any."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lowmode_fx.tuning.decide import Wanted, _plan_in_words
from lowmode_fx.tuning.ladder_plan import Chosen
from lowmode_fx.tuning.plan import Plan


def words(whole: list[int], reached: float, share: float, budget: float = 1.0) -> list[str]:
    candidates: Any = [SimpleNamespace(name=name, gain=lambda x: 0.9) for name in ("half", "nearly")[: len(whole) - 1]]
    chosen = Chosen(candidates, Plan((1.0,) * len(whole), 0.5, share), reached)
    return _plan_in_words(chosen, whole, 0.5, Wanted(10, 0.5, 2, budget, 0), None)


@pytest.mark.parametrize(
    ("whole", "reached", "share", "said"),
    [
        ([8, 6], 10, 0.8, "8 low epochs replace 8.0 full ones, 6 full epochs at the end: "),
        ([1, 1], 2, 0.7, "1 low epoch replaces 1.4 full ones, 1 full epoch at the end: "),
        ([1, 1], 0.04, 0.7, "1 low epoch replaces 0.028 of a full one, 1 full epoch at the end: "),
        ([2, 1, 0], 1, 0.97, "2 epochs of half and 1 epoch of nearly replace 0.97 of a full one, 0 full epochs at "),
        ([1, 0, 1], 1, 0.5, "1 epoch of half replaces 0.5 of a full one, 1 full epoch at "),
    ],
)
def test_what_low_epochs_stand_for(whole: list[int], reached: float, share: float, said: str) -> None:
    assert words(whole, reached, share)[0].startswith(said)


@pytest.mark.parametrize(("reached", "said"), [(6.25, "6.2"), (0.04, "0.04"), (1e-4, "0.0001")])
def test_how_far_a_budget_reaches(reached: float, said: str) -> None:
    told = words([2, 1], reached, 0.5, budget=0.5)[1]
    assert told == f"in 50% of the time a run makes the progress of {said} of 10 full epochs"


@pytest.mark.parametrize(
    ("planned", "said"), [(1.9, "2 low epochs replace 1.8 full ones"), (2.4, "2 low epochs replace 1.8 full ones")]
)
def test_whole_epochs_replace_what_they_are_worth(planned: float, said: str) -> None:
    """A plan of 1.9 or 2.4 low epochs with a gain of 0.9 each, in two whole ones."""
    candidates: Any = [SimpleNamespace(name="half", gain=lambda x: 0.9)]
    chosen = Chosen(candidates, Plan((planned, 2.0), 0.5, 0.9 * planned / 5), 5)
    assert _plan_in_words(chosen, [2, 2], 0.5, Wanted(5, 0.5, 2, 1.0, 0), None)[0].startswith(said)
