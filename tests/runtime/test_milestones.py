"""Holds begin where a torch scheduler changes the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm import scheduler
from torch import nn
from torch.optim import SGD, lr_scheduler

from lowmode_fx import BernoulliSchedule, Mode, lr_milestones

SCHEDULERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "the paper's": (lambda o: lr_scheduler.MultiStepLR(o, [80, 120]), (0, 80, 120)),
    "StepLR": (lambda o: lr_scheduler.StepLR(o, 60), (0, 60, 120, 180)),
    "ConstantLR": (lambda o: lr_scheduler.ConstantLR(o, 0.1, 5), (0, 5)),
    "LambdaLR": (lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1.0 if epoch < 7 else 0.5), (0, 7)),
    "never": (lambda o: lr_scheduler.LambdaLR(o, lambda _: 1.0), (0,)),
    "ChainedScheduler": (
        lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.MultiStepLR(o, [80]), lr_scheduler.ConstantLR(o, 0.1, 5)]
        ),
        (0, 5, 80),
    ),
    "warm-up, then steps": (
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.2, total_iters=3), lr_scheduler.MultiStepLR(o, [50])], [10]
        ),
        (0, 1, 2, 3, 60),
    ),
}


def optimizer() -> SGD:
    return SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_epochs_in_which_the_rate_changes(name: str) -> None:
    make, expected = SCHEDULERS[name]
    assert lr_milestones(make(optimizer()), 200) == expected


def test_the_scheduler_and_its_optimizer_stay_as_they_are() -> None:
    sgd = optimizer()
    sgd.param_groups[0]["params"][0].grad = torch.ones(2, 2)
    sgd.step()
    scheduler = lr_scheduler.MultiStepLR(sgd, [2, 4])
    before, state = scheduler.state_dict(), sgd.state[sgd.param_groups[0]["params"][0]]["momentum_buffer"].clone()
    assert lr_milestones(scheduler, 10) == (0, 2, 4)
    assert scheduler.state_dict() == before
    assert sgd.param_groups[0]["lr"] == 0.1
    assert torch.equal(sgd.state[sgd.param_groups[0]["params"][0]]["momentum_buffer"], state)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: scheduler.StepLRScheduler(o, 3, 0.1),
        lambda o: scheduler.MultiStepLRScheduler(o, [3, 7], 0.1),
        lambda o: scheduler.StepLRScheduler(o, 5, 0.1, warmup_t=2, warmup_lr_init=1e-3),
    ],
)
def test_timms_schedulers_stepped_as_its_script_does(make: Any) -> None:
    own, sgd = make(optimizer()), optimizer()
    found = lr_milestones(make(sgd), 10)
    rates = []
    for epoch in range(10):
        rates.append(own.optimizer.param_groups[0]["lr"])
        own.step(epoch + 1)
    assert found == (0, *(epoch for epoch in range(1, 10) if rates[epoch] != rates[epoch - 1])) and len(found) > 2


def test_timms_schedulers_without_milestones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^scheduler CosineLRScheduler changes the learning rate in 9 of 10 epochs"):
        lr_milestones(scheduler.CosineLRScheduler(optimizer(), 10), 10)
    with pytest.raises(ValueError, match=r"^scheduler StepLRScheduler counts updates, not epochs; make it with t_in"):
        lr_milestones(scheduler.StepLRScheduler(optimizer(), 3, t_in_epochs=False), 10)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_scheduler_that_has_taken_steps_is_refused() -> None:
    """Its past changes are lost, and a resumed run would hold other epochs than the first one did."""
    scheduler = lr_scheduler.MultiStepLR(optimizer(), [2, 6])
    for _ in range(4):
        scheduler.step()
    with pytest.raises(ValueError, match="scheduler MultiStepLR has taken 4 steps, so its earlier changes are unknown"):
        lr_milestones(scheduler, 10)


def test_a_rate_that_changes_all_the_time_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^scheduler CosineAnnealingLR changes the learning rate in 199 of 200 epochs"
    ):
        lr_milestones(lr_scheduler.CosineAnnealingLR(optimizer(), 200), 200)
    with pytest.raises(ValueError, match=r"^scheduler ReduceLROnPlateau follows the loss"):
        lr_milestones(lr_scheduler.ReduceLROnPlateau(optimizer()), 200)
    with pytest.raises(
        TypeError, match=r"^scheduler is of type SGD; give a learning-rate scheduler, torch's or timm's$"
    ):
        lr_milestones(optimizer(), 200)


def test_a_schedule_holds_there() -> None:
    milestones = lr_milestones(lr_scheduler.MultiStepLR(optimizer(), [5]), 10)
    schedule = BernoulliSchedule(p=1.0, hold_epochs=2, milestones=milestones)
    assert [schedule.mode(0, epoch) for epoch in range(10)] == [
        *[Mode.FULL] * 2, *[Mode.LOW] * 3, *[Mode.FULL] * 2, *[Mode.LOW] * 3
    ]  # fmt: skip
