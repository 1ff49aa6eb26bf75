"""Trial runs: which candidates have them, how often, and what follows from several."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lowmode_fx import LowModeConfig, LowModeModel
from lowmode_fx.tuning.candidate import Candidate
from lowmode_fx.tuning.decide import Wanted, decide, planned
from lowmode_fx.tuning.plan import ModeGain, make_plan
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.trial_batches import endless, later
from lowmode_fx.tuning.trial_order import REPEATS, trial_runs
from lowmode_fx.tuning.worth_pooling import worth_pooling

WANTED = Wanted(100, 0.5, 2, 1.0, 0)
#: Of a search that tried all it was asked to.
NOTHING_ELSE: dict[str, Any] = {"refused": {}, "left_out": [], "looked_at": 1, "growth_told": [], "lr_rule": "linear"}


def measured(name: str, ratio: Any, cost: float, gain: float) -> Candidate:
    config = LowModeConfig(ratio=ratio, kernel_ratio=1)
    return Candidate(name, config, cost, (), make_plan([], 10), 1.0, ((gain, gain),), gain=lambda x: gain)


class Lucky:
    """A search whose trial runs give each candidate the gains of ``luck`` in turn, then the last of them."""

    def __init__(self, luck: dict[str, tuple[float, ...]]) -> None:
        self.luck = luck
        self.candidates = [measured(name, Fraction(20 + place, 10), 0.3, 0.9) for place, name in enumerate(luck)]
        self.candidates = [replace(each, trials=()) for each in self.candidates]
        self.ran: list[str] = []

    def trial_run(self, candidate: Candidate, steps: int, weight: float) -> Candidate:
        gains = self.luck[candidate.name]
        gain = gains[min(len(candidate.trials), len(gains) - 1)]
        before = candidate.trials if weight == candidate.weight else ()
        trials = (*before, (gain, gain))
        mean = sum(each[-1] for each in trials) / len(trials)
        plan = make_plan([ModeGain(lambda x: mean, candidate.cost, 0.5)], 10)
        tried = replace(candidate, trials=trials, plan=plan, gain=lambda x: mean, weight=weight)
        self.candidates = [tried if each is candidate else each for each in self.candidates]
        self.ran.append(candidate.name)
        return tried

    def surely_priced(self, candidate: Candidate) -> Candidate:
        return candidate

    def grown(self, candidate: Candidate) -> None:
        return None


def test_modes_of_the_plan_are_tried_again_until_luck_is_averaged_out() -> None:
    search: Any = Lucky({"steady": (0.8,), "lucky": (1.0, 0.4, 0.4)})
    assert trial_runs(search, WANTED, 16, math.inf, lambda what: None) == []
    # "lucky" is planned until its mean is below the other's, which is then tried as often.
    assert search.ran == ["steady", "lucky", "lucky", "steady", "steady"]
    final = planned(search, WANTED).candidates
    assert [each.name for each in final] == ["steady"] and len(final[0].trials) == REPEATS


def test_gains_of_too_few_trial_runs_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    search: Any = Lucky({"steady": (0.8,)})
    now = itertools.count()
    monkeypatch.setattr("lowmode_fx.tuning.trial_order.time", SimpleNamespace(monotonic=lambda: next(now)))
    lines = trial_runs(search, WANTED, 16, 5.0, lambda what: None)
    assert lines == [
        "the gain of steady rests on 2 of 3 trial runs, which differ by chance: there was no time for more; give more "
        "seconds"
    ]


def test_gains_of_several_trial_runs_have_a_mean_and_an_error() -> None:
    tried = replace(measured("r", 2, 0.3, 0.5), trials=((0.4, 0.6), (0.6, 0.8)))
    assert tried.trial_gains == pytest.approx((0.5, 0.7)) and tried.trial_error == pytest.approx(0.1)
    assert math.isnan(replace(tried, trials=((0.4, 0.6),)).trial_error)
    assert replace(tried, trials=()).trial_gains == ()


def test_weights_of_a_ladder_are_those_of_its_trial_runs() -> None:
    """Modes that were tried with a smaller weight are planned by the gain that they have with it."""
    candidates = [
        replace(measured("small", 2, 0.25, 0.6), weight=0.5),
        measured("medium", "4/3", 0.5, 0.95),
    ]
    search: Any = SimpleNamespace(candidates=candidates, **NOTHING_ELSE)
    found = decide(search, Wanted(20, 0.5, 3, 1.0, 0), [], 0.2)
    assert len(found.configs) == 2 and found.low_weight == {"r2": 0.5, "r4/3": 1.0}
    again = Tuning.from_dict(json.loads(found.to_json()))
    assert again.low_weight == found.low_weight
    model = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    ladder = again.build(model, torch.zeros(2, 3, 16, 16))
    net = LowModeModel(ladder, again.schedule, low_weight=again.low_weight, compile=False)
    assert net.low_weight == found.low_weight


@pytest.mark.parametrize(("ratio", "kernel_ratio", "left"), [("4/3", 1, 0.2), ("4/3", 2, 0.5), (2, 1, 0.5)])
def test_pooled_kernels_leave_more_to_full_mode(ratio: str, kernel_ratio: int, left: float) -> None:
    config = LowModeConfig(ratio=ratio, kernel_ratio=kernel_ratio)
    candidate = replace(measured("any", 2, 0.3, 0.9), config=config)
    assert candidate.mode_gain(0.5).tail == pytest.approx(left)


@pytest.mark.parametrize(("cost", "kept"), [(0.25, True), (0.21, True), (0.1, False), (0.05, False)])
def test_ladders_pool_kernels_where_that_saves_a_third(cost: float, kept: bool) -> None:
    """Pooled kernels with the same gain: less than a third saved is less than a short full tail mends."""
    plain = [measured("plain", 2, 0.3, 0.9), measured("larger", "4/3", 0.6, 0.99)]
    pooled = replace(measured("pooled", 2, cost, 0.9), config=LowModeConfig(ratio=2))
    search: Any = SimpleNamespace(candidates=[*plain, pooled])
    ladder = [each.name for each in planned(search, replace(WANTED, modes=3)).candidates]
    assert ladder == (["plain", "larger"] if kept else ["pooled", "larger"])
    alone = [each.name for each in planned(search, WANTED).candidates]
    assert alone == ["pooled"]


def test_pooled_kernels_on_whole_images_are_compared_with_full_mode() -> None:
    config = LowModeConfig(ratio=2, downsample_input=False)
    dear, cheap = (replace(measured(f"{cost}", 2, cost, 1.0), config=config) for cost in (0.7, 0.6))
    assert worth_pooling([dear, cheap]) == [cheap]
    useless = replace(cheap, trials=((0.0, 0.0),))
    assert worth_pooling([cheap, useless]) == [cheap] and worth_pooling([useless]) == [
        useless
    ]  # something to plan with
    lone = replace(measured("lone", 2, 0.9, 0.9), config=LowModeConfig(ratio=2))
    assert worth_pooling([lone]) == [lone]  # nothing to compare it with


def test_a_budget_without_a_whole_epoch_is_refused() -> None:
    search: Any = SimpleNamespace(candidates=[measured("plain", 2, 0.3, 0.9)], **NOTHING_ELSE)
    told = "time_budget=1e-06 leaves no whole epoch of 10; give a larger share, or more epochs"
    with pytest.raises(ValueError, match=told):
        decide(search, Wanted(10, 0.5, 2, 1e-6, 0), [], 0.2)


@pytest.mark.parametrize("weight", ["1", None, [1], {}, {"r2": "1"}, True])
def test_weights_that_are_no_numbers_are_refused(weight: Any) -> None:
    search: Any = SimpleNamespace(candidates=[measured("plain", 2, 0.3, 0.9)], **NOTHING_ELSE)
    values = decide(search, Wanted(10, 0.5, 2, 1.0, 0), [], 0.2).to_dict() | {"low_weight": weight}
    with pytest.raises(ValueError, match="not a result of `lowmode-fx tune`: its low_weight is"):
        Tuning.from_dict(values)


@pytest.mark.parametrize(("count", "steps"), [(14, 8), (22, 16), (30, 12), (100, 8), (6, 4)])
def test_repeats_of_trial_runs_begin_with_other_batches(count: int, steps: int) -> None:
    source: list[Any] = list(range(count))
    begins = [next(islice(endless(source, 6), later(source, 6, steps, repeat), None)) for repeat in range(REPEATS)]
    assert len(set(begins)) == REPEATS
    assert later(iter(source), 6, steps, 2) == 2 * steps  # of unknown length


@pytest.mark.parametrize(("cost", "plain"), [(0.3, True), (0.2, True), (0.02, False)])
def test_a_plan_has_to_save_a_tenth_beside_the_plain_ramps(cost: float, plain: bool) -> None:
    """Whole runs have shown the ramps to work; a plan that trial runs put a little below them is not trusted."""
    tried = [
        measured("smallest", "8/3", 0.2, 0.75),
        measured("halved", 2, 0.3, 0.9),
        measured("nearly", "4/3", 0.6, 1.0),
    ]
    other = measured("other", "9/4", cost, 0.9)
    search: Any = SimpleNamespace(candidates=[*tried, other], **NOTHING_ELSE)
    wanted = replace(WANTED, modes=4, epochs=40, tail=0.35)
    chosen = planned(search, wanted)
    assert chosen.trusted == plain == ("other" not in [each.name for each in chosen.candidates])
    assert ([each.name for each in chosen.candidates] == ["smallest", "halved", "nearly"]) == plain
    told = any(reason.startswith("this is a plain ramp") for reason in decide(search, wanted, [], 0.2).reasons)
    assert told == plain


def test_a_ramp_with_a_mode_that_costs_more_than_it_gains_is_not_trusted() -> None:
    dear = [measured("halved", 2, 0.3, 0.9), measured("dear", "4/3", 0.97, 0.95)]
    chosen = planned(SimpleNamespace(candidates=dear), replace(WANTED, modes=3))  # type: ignore[arg-type]
    assert [each.name for each in chosen.candidates] == ["halved"] and not chosen.trusted


def test_pooled_kernels_that_can_not_be_worth_it_are_not_tried_for_a_ladder() -> None:
    """Beside r = 2 with kernels kept, whose progress costs 0.3 / 0.9, pooled ones cost at least their steps' 0.25."""
    search: Any = Lucky({"kept": (0.9,), "pooled": (0.9,)})
    kept, pooled = search.candidates
    search.candidates = [kept, replace(pooled, config=LowModeConfig(ratio=2), cost=0.25)]
    lines = trial_runs(search, replace(WANTED, modes=3), 16, math.inf, lambda what: None)
    assert set(search.ran) == {"kept"}
    assert lines == [
        "pooled: not tried, for at a cost of 0.25 it can't save a third of the cost of progress with kernels kept, as "
        "pooled kernels of a ladder have to"
    ]
    search.candidates = [kept, replace(pooled, config=LowModeConfig(ratio=2), cost=0.2)]
    assert trial_runs(search, replace(WANTED, modes=3), 16, math.inf, lambda what: None) == []
    assert "pooled" in search.ran  # it might


def test_weighted_gradients_are_tried_after_the_plan_is_sure() -> None:
    search: Any = Lucky({"only": (0.8,)})
    search.candidates = [replace(search.candidates[0], weight=0.5)]
    told: list[str] = []
    assert trial_runs(search, WANTED, 16, math.inf, told.append) == []
    first, *repeats = ["trial run of only" + number for number in ("", ", number 2", ", number 3")]
    assert told[:3] == [first, *repeats] and told[3] == "trial run of only, its gradients × 0.5"


def test_trial_runs_begin_with_the_control_and_the_best_whatever_its_kernels() -> None:
    """Time may be up after two: with large kernels pooled ones are the best, and must not wait for all kept ones."""
    search: Any = Lucky({"half": (0.9,), "large kernels": (0.9,), "control": (0.9,)})
    half, large, control = search.candidates
    plans = [make_plan([ModeGain(lambda x: 0.9, cost, 0.5)], 10) for cost in (0.3, 0.1, 0.6)]
    large = replace(large, config=LowModeConfig(ratio=2), cost=0.1, plan=plans[1])
    search.candidates = [
        replace(half, plan=plans[0]),
        large,
        replace(control, config=LowModeConfig(ratio="4/3", kernel_ratio=1), plan=plans[2]),
    ]
    trial_runs(search, replace(WANTED, modes=3), 16, math.inf, lambda what: None)
    assert search.ran[:3] == ["control", "large kernels", "half"]


def test_a_ramp_that_saves_next_to_nothing_does_not_stand_in_the_way() -> None:
    """It would be left for full-mode, though pooled kernels on whole images save a tenth."""
    whole = replace(measured("whole", 2, 0.4, 0.7), config=LowModeConfig(ratio=2, downsample_input=False))
    tried = [measured("halved", 2, 0.35, 0.4), measured("nearly", "4/3", 0.6, 0.65), whole]
    search: Any = SimpleNamespace(candidates=tried, **NOTHING_ELSE)
    three = decide(search, Wanted(30, 0.5, 3, 1.0, 0), [], 0.2)
    two = decide(search, Wanted(30, 0.5, 2, 1.0, 0), [], 0.2)
    assert three.time <= two.time < 0.9


def test_a_plan_that_takes_longer_than_full_mode_is_full_mode() -> None:
    """Of one epoch and half of its time, whole epochs leave a low one and a full one."""
    search: Any = SimpleNamespace(candidates=[measured("half", 2, 0.25, 0.7)], **NOTHING_ELSE)
    found = decide(search, Wanted(1, 0.5, 2, 0.5, 0), [], 0.2)
    assert found.time == 1 and found.epochs == 1 and found.schedule.low_probability(0) == 0


def test_what_whole_epochs_add_is_told() -> None:
    search: Any = SimpleNamespace(candidates=[measured("half", 2, 0.25, 0.7)], **NOTHING_ELSE)
    few, many = (decide(search, Wanted(epochs, 0.5, 2, 1.0, 0), [], 0.2).reasons for epochs in (3, 100))
    assert any(reason.startswith("in parts of epochs it would take ") for reason in few)
    assert not any("in parts of epochs" in reason for reason in many)
