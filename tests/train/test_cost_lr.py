"""The ready-made scheduler: a cosine over a run's cost."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_cost_progress import net_of

from lowmode_fx import AgreementSchedule, BernoulliSchedule, CostCosineLR, LadderSchedule, LowModeModel, cost_progress

pytestmark = pytest.mark.usefixtures("one_thread")
EPOCHS, STEPS = 4, 5


def optimizer_of(net: LowModeModel) -> torch.optim.Optimizer:
    weight, bias = net.parameters()
    return torch.optim.SGD([{"params": [weight], "lr": 0.4}, {"params": [bias], "lr": 0.1}])


def rates(scheduler: CostCosineLR, optimizer: torch.optim.Optimizer, steps: int) -> list[tuple[float, ...]]:
    """Of the coming ``steps`` steps."""
    found = []
    for _ in range(steps):
        found.append(tuple(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        scheduler.step()
    return found


def test_each_step_has_the_cosine_of_the_cost_before_it() -> None:
    net = net_of(LadderSchedule((2, 1, 1)))
    optimizer = optimizer_of(net)
    found = rates(CostCosineLR(optimizer, net, EPOCHS, STEPS), optimizer, EPOCHS * STEPS)
    # Every step of an epoch costs the same: 1/4 at r = 2, 9/16 at r = 4/3, 1 in full-mode.
    costs = [0.25] * 10 + [0.5625] * 5 + [1.0] * 5
    passed = [sum(costs[:step]) / sum(costs) for step in range(20)]
    assert [first for first, _ in found] == pytest.approx([0.2 * (1 + math.cos(math.pi * each)) for each in passed])
    assert [first / second for first, second in found] == pytest.approx([4.0] * 20)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)  # after the last one


def test_without_low_mode_it_is_torchs_cosine() -> None:
    net = net_of(BernoulliSchedule(0.0))
    mine, theirs = optimizer_of(net), optimizer_of(net)
    found = rates(CostCosineLR(mine, net, EPOCHS, STEPS), mine, 20)
    plain = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, EPOCHS * STEPS)
    for pair in found:
        assert pair == pytest.approx(tuple(group["lr"] for group in theirs.param_groups))
        theirs.step()
        plain.step()


def test_warm_up_rises_over_the_steps_of_its_epochs() -> None:
    net = net_of(LadderSchedule((2, 1, 1)))
    optimizer = optimizer_of(net)
    warm = [first for first, _ in rates(CostCosineLR(optimizer, net, EPOCHS, STEPS, warmup_epochs=2), optimizer, 20)]
    other = optimizer_of(net)
    cold = [first for first, _ in rates(CostCosineLR(other, net, EPOCHS, STEPS), other, 20)]
    assert [a / b for a, b in zip(warm[1:10], cold[1:10], strict=True)] == pytest.approx([n / 10 for n in range(1, 10)])
    assert warm[10:] == cold[10:] and 0 < warm[0] < 0.01


def test_given_costs_are_followed() -> None:
    net = net_of(LadderSchedule((1, 1, 1)))
    costs = {"r2": 0.5, "r4/3": 0.7}
    optimizer = optimizer_of(net)
    found = rates(CostCosineLR(optimizer, net, 3, STEPS, costs=costs), optimizer, 15)
    starts = [found[epoch * STEPS][0] for epoch in range(3)]
    passed = cost_progress(net, 3, STEPS, costs)
    assert starts == pytest.approx([0.2 * (1 + math.cos(math.pi * each)) for each in passed[:-1]])


def test_a_saved_scheduler_goes_on() -> None:
    net = net_of(LadderSchedule((2, 1, 1)))
    optimizer = optimizer_of(net)
    scheduler = CostCosineLR(optimizer, net, EPOCHS, STEPS)
    rates(scheduler, optimizer, 7)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    expected = rates(scheduler, optimizer, 13)
    again = optimizer_of(net)
    resumed = CostCosineLR(again, net, EPOCHS, STEPS)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert rates(resumed, again, 13) == expected


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_have_the_same_rates_to_come(copied: Callable[[Any], Any]) -> None:
    net = net_of(LadderSchedule((2, 1, 1)))
    optimizer = optimizer_of(net)
    scheduler = CostCosineLR(optimizer, net, EPOCHS, STEPS)
    rates(scheduler, optimizer, 7)
    theirs = copied(scheduler)
    assert rates(theirs, theirs.optimizer, 13) == rates(scheduler, optimizer, 13)


@pytest.mark.filterwarnings("ignore:epochs=8, but")
def test_a_loaded_state_leaves_the_plan_of_the_new_run() -> None:
    net = net_of(LadderSchedule((2, 1, 1)))
    optimizer = optimizer_of(net)
    scheduler = CostCosineLR(optimizer, net, EPOCHS, STEPS)
    rates(scheduler, optimizer, 7)
    again, unbroken = optimizer_of(net), optimizer_of(net)
    longer = CostCosineLR(again, net, 2 * EPOCHS, STEPS)
    longer.load_state_dict(scheduler.state_dict())
    expected = rates(CostCosineLR(unbroken, net, 2 * EPOCHS, STEPS), unbroken, 20)
    optimizer.step()
    longer.step()
    assert tuple(group["lr"] for group in again.param_groups) == expected[8]


def test_it_is_made_for_a_run_that_goes_on_by_last_epoch() -> None:
    net = net_of(LadderSchedule((2, 1, 1)))
    optimizer = optimizer_of(net)
    scheduler = CostCosineLR(optimizer, net, EPOCHS, STEPS)
    rates(scheduler, optimizer, 7)
    at = [group["lr"] for group in optimizer.param_groups]
    CostCosineLR(optimizer, net, EPOCHS, STEPS, last_epoch=6)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(at)


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"warmup_epochs": -1}, ValueError, "warmup_epochs=-1"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"net": torch.nn.Linear(2, 2)}, TypeError, "net"),
    ],
)
def test_wrong_arguments(changed: dict[str, Any], error: type[Exception], told: str) -> None:
    net = net_of(LadderSchedule((2, 1, 1)))
    given = {"net": net, "epochs": EPOCHS, "steps_per_epoch": STEPS} | changed
    with pytest.raises(error, match=told):
        CostCosineLR(optimizer_of(net), **given)


def test_an_optimizer_of_other_weights_is_refused() -> None:
    other = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer has none of the net's parameters; make it with"):
        CostCosineLR(other, net_of(LadderSchedule((2, 1, 1))), EPOCHS, STEPS)


def test_what_is_not_known_ahead_is_refused() -> None:
    agreement = net_of(AgreementSchedule(every=500))
    with pytest.raises(ValueError, match="chooses modes during training"):
        CostCosineLR(optimizer_of(agreement), agreement, EPOCHS, STEPS)
    pair = net_of(LadderSchedule((2, 1, 1))).ladder
    larger = LowModeModel(pair, LadderSchedule((2, 1, 1)), batch_multiplier="pixels", compile=False)
    with pytest.raises(
        ValueError, match="low steps have larger batches, so epochs differ in their steps; follow cost_progress"
    ):
        CostCosineLR(optimizer_of(larger), larger, EPOCHS, STEPS)


# Its pace ------------------------------------------------------------------------------------------------------------


def stepped(net: LowModeModel, per_call: int, calls: int, resumed: int = 0, of: int = 10) -> list[str]:
    """The warnings of a run whose scheduler steps after every ``per_call`` optimizer steps."""
    optimizer = optimizer_of(net)
    scheduler = CostCosineLR(optimizer, net, EPOCHS, of)
    net.attach(optimizer)
    net.load_schedule_state({"step": resumed, "epoch": 0})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(calls):
            for _ in range(per_call):
                net(torch.zeros(2, 3, 16, 16)).sum().backward()
                optimizer.step()
            scheduler.step()
    return [str(each.message) for each in caught if "CostCosineLR" in str(each.message)]


def test_one_that_steps_once_an_epoch_is_told_once() -> None:
    (told,) = stepped(net_of(LadderSchedule((2, 1, 1))), per_call=10, calls=4)
    assert told == (
        "CostCosineLR.step() comes after 10 optimizer steps, so its rates lag behind the run; call it after each "
        "optimizer step, not once an epoch"
    )


@pytest.mark.parametrize("resumed", [0, 1000])
def test_one_that_steps_with_the_optimizer_is_not(resumed: int) -> None:
    assert stepped(net_of(LadderSchedule((2, 1, 1))), per_call=1, calls=25, resumed=resumed) == []


def test_short_epochs_are_told_too() -> None:
    (told,) = stepped(net_of(LadderSchedule((2, 1, 1))), per_call=3, calls=4, of=3)
    assert "comes after 3 optimizer steps" in told


@pytest.mark.parametrize(
    ("given", "told_at"),
    [
        (5, None),
        (10, "in epoch 1 after 16 steps, 10 an epoch, but the net is in epoch 3"),  # as from micro-batches
        (2, "in epoch 3 after 6 steps, 2 an epoch, but the net is in epoch 1"),
    ],
)
def test_a_wrong_number_of_steps_is_told(given: int, told_at: str | None) -> None:
    net = net_of(LadderSchedule((2, 1, 1)))
    optimizer = optimizer_of(net)
    scheduler = CostCosineLR(optimizer, net, EPOCHS, given)
    net.attach(optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(20):
            net.set_epoch(step // 5)
            net(torch.zeros(2, 3, 16, 16)).sum().backward()
            optimizer.step()
            scheduler.step()
    told = [str(each.message) for each in caught if "CostCosineLR" in str(each.message)]
    assert len(told) == (told_at is not None)
    assert told_at is None or told_at in told[0]


# Its end -------------------------------------------------------------------------------------------------------------


def told_in(epochs: int, given: int, of: int, says_epoch: bool = True) -> list[str]:
    """The warnings of a run of ``epochs`` epochs of ``of`` steps up a ladder of 4; the scheduler has 4 of ``given``."""
    net = net_of(LadderSchedule((2, 1, 1)))
    optimizer = optimizer_of(net)
    net.attach(optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scheduler = CostCosineLR(optimizer, net, EPOCHS, given)
        for epoch in range(epochs):
            if says_epoch:
                net.set_epoch(epoch)
            for _ in range(of):
                net(torch.zeros(2, 3, 16, 16)).sum().backward()
                optimizer.step()
                scheduler.step()
    return [str(each.message) for each in caught if "CostCosineLR" in str(each.message)]


def test_steps_after_its_end_are_told_once() -> None:
    assert told_in(EPOCHS, given=3, of=3) == []
    assert told_in(EPOCHS + 1, given=3, of=3) == [
        "CostCosineLR ended after 12 steps (epochs=4, steps_per_epoch=3), but the net goes on, at a rate of 0; give "
        "the epochs of the run and the optimizer steps of one"
    ]
    assert "ended after 4 steps" in told_in(EPOCHS, given=1, of=3, says_epoch=False)[0]


def test_one_step_an_epoch_is_compared_with_the_nets_epochs_too() -> None:
    assert told_in(EPOCHS, given=1, of=1) == []
    (told,) = told_in(EPOCHS, given=1, of=4)
    assert "in epoch 5 after 5 steps, 1 an epoch, but the net is in epoch 1" in told
    assert told.endswith("(in a resumed run, load the scheduler's state too)")


@pytest.mark.parametrize("epochs", [EPOCHS - 1, 5 * EPOCHS])
def test_epochs_that_differ_from_the_ladders_are_told(epochs: int) -> None:
    net = net_of(LadderSchedule((2, 1, 1)))
    with pytest.warns(UserWarning, match=f"epochs={epochs}, but the net's LadderSchedule has 4"):
        CostCosineLR(optimizer_of(net), net, epochs, STEPS)


@pytest.mark.parametrize(
    "schedule", [LadderSchedule((2, 1, 1)), LadderSchedule(probabilities=[(0.5, 0.3, 0.2)]), BernoulliSchedule([1, 0])]
)
def test_epochs_that_fit_or_are_not_known_are_not(schedule: Any) -> None:
    net = net_of(schedule)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CostCosineLR(optimizer_of(net), net, EPOCHS, STEPS)
