"""A forgotten ``set_epoch`` is told once, where the schedule goes by epochs, and nowhere else."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from trainers import IMAGES, network

from lowmode_fx import (
    AgreementSchedule,
    BernoulliSchedule,
    CostCosineLR,
    LadderSchedule,
    LowModeModel,
    Mode,
    ModeBatchSampler,
    PeriodicSchedule,
)
from lowmode_fx.lowering.pair import build_pair
from lowmode_fx.runtime import epoch_reminder
from lowmode_fx.runtime.schedules import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")
TOLD = "without net.set_epoch, so BernoulliSchedule, which goes by epochs, stays in epoch 0; call net.set_epoch(epoch)"
BY_EPOCHS = BernoulliSchedule(p=[0.5, 0.0])


@pytest.fixture(scope="module")
def pair() -> Any:
    return build_pair(network(), IMAGES[:2])


@pytest.fixture
def make(pair: Any) -> Callable[..., LowModeModel]:
    pair.model.train()
    return lambda schedule=BY_EPOCHS: LowModeModel(pair, schedule, compile=False)


def said(net: LowModeModel, course: str) -> list[str]:
    """The warnings of a course: t a training forward, n one without gradients, e an evaluation, s ``set_epoch``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for what in course:
            if what == "s":
                net.set_epoch(0)
                continue
            net.train(what != "e")
            with torch.set_grad_enabled(what == "t"):
                net(IMAGES[:2])
    return [str(each.message) for each in caught if "set_epoch" in str(each.message)]


@pytest.mark.parametrize("course", ["tet", "ettetet", "ttneett"])
def test_training_that_goes_on_after_an_evaluation(make: Callable[..., LowModeModel], course: str) -> None:
    assert said(make(), course) == [f"training goes on after an evaluation {TOLD} before each epoch"]


@pytest.mark.parametrize("course", ["ett", "tte", "tntt", "stetet", "tesset"])
def test_nothing_is_told_before_or_where_it_is_set(make: Callable[..., LowModeModel], course: str) -> None:
    assert said(make(), course) == []


def test_a_run_without_evaluation_is_told_after_a_thousand_steps(
    make: Callable[..., LowModeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert epoch_reminder.TOLD_AFTER == 1000
    monkeypatch.setattr(epoch_reminder, "TOLD_AFTER", 3)
    net = make()
    assert said(net, "ttt") == [] and said(net, "ttt") == [f"3 steps {TOLD} before each epoch"]
    resumed = make()
    resumed.load_schedule_state({"step": 500, "epoch": 0})  # the steps of this process count
    assert said(resumed, "ttt") == [] and len(said(resumed, "t")) == 1


def test_a_scheduler_that_knows_the_epochs_length_has_it_told_after_one(make: Callable[..., LowModeModel]) -> None:
    net = make()
    CostCosineLR(torch.optim.SGD(net.parameters(), lr=0.1), net, 2, 2, costs={"low": 0.5})
    assert said(net, "tt") == [] and said(net, "tt") == [f"2 steps {TOLD} before each epoch"]


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 3), (2, 2)])
def test_a_sampler_of_the_net_knows_the_epochs_length_once_it_is_through(
    make: Callable[..., LowModeModel], accumulation: int, steps: int
) -> None:
    net = make()
    sampler = ModeBatchSampler.for_net(net, accumulation)(range(6), 2)
    assert len(list(sampler)) == 3
    assert said(net, "t" * steps) == [] and said(net, "t") == [f"{steps} steps {TOLD} before each epoch"]


def test_who_goes_on_from_a_state_or_a_copy_has_said_it_before(make: Callable[..., LowModeModel]) -> None:
    net = make()
    net.load_schedule_state({"step": 3, "epoch": 1})
    assert said(net, "tet") == []
    trained = make()
    said(trained, "st")
    assert said(copy.deepcopy(trained).train(), "tet") == []


def test_a_copy_that_nothing_trains_is_not_told(make: Callable[..., LowModeModel]) -> None:
    assert said(copy.deepcopy(make()), "tetet") == []


class Own:
    """A user's own schedule, of which nothing is known but what it says."""

    def __init__(self, **says: bool) -> None:
        vars(self).update(says)

    def mode(self, step: int, epoch: int) -> Mode:
        return Mode.FULL if epoch else Mode.LOW


VARYING: list[Schedule] = [
    BernoulliSchedule(p=lambda epoch: 0.5),
    BernoulliSchedule(p=0.5, hold_epochs=1, milestones=(0,)),
    PeriodicSchedule(period=2, low_steps=(2, 1)),
    LadderSchedule((3, 2)),
    LadderSchedule((2, 0)),
    LadderSchedule(probabilities=[(0.5, 0.5), (0, 1)]),
    AgreementSchedule(full_from=3),
    Own(varies_by_epoch=True),
]
THE_SAME: list[Schedule] = [
    BernoulliSchedule(p=0.5),
    BernoulliSchedule(p=[0.5, 0.5]),
    PeriodicSchedule(),
    LadderSchedule((0, 4)),
    LadderSchedule(probabilities=[(0.5, 0.5)]),
    AgreementSchedule(),
    Own(),
    Own(varies_by_epoch=False),
]


@pytest.mark.parametrize("schedule", VARYING, ids=lambda each: type(each).__name__)
def test_schedules_that_go_by_epochs(make: Callable[..., LowModeModel], schedule: Schedule) -> None:
    assert len(said(make(schedule), "tete")) == 1


@pytest.mark.parametrize("schedule", THE_SAME, ids=lambda each: type(each).__name__)
def test_schedules_that_are_the_same_in_all_epochs(make: Callable[..., LowModeModel], schedule: Schedule) -> None:
    assert said(make(schedule), "tetet") == []
    if not isinstance(schedule, Own):
        assert len({tuple(schedule.mode(step, epoch) for step in range(40)) for epoch in range(9)}) == 1
