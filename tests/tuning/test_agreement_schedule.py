"""``AgreementSchedule``: decides by what is measured, pure given its decisions, which travel with the run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from training import tiny_model

from lowmode_fx import AgreementSchedule, BernoulliSchedule, LowModeConfig, LowModeModel, Mode, ModePair, build_pair
from lowmode_fx.runtime.schedules import MeasuringSchedule, StatefulSchedule


def pair(**options: Any) -> ModePair:
    return build_pair(tiny_model(4, dropout=0.0), torch.zeros(2, 3, 16, 16), LowModeConfig(**options))


def batches(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(16, 3, 16, 16, generator=generator) for _ in range(count)]
    return [(each, torch.randint(0, 4, (16,), generator=generator)) for each in images]


def modes(schedule: AgreementSchedule, steps: range, epoch: int = 0) -> list[Mode]:
    return [schedule.mode(step, epoch) for step in steps]


def test_it_is_what_the_loop_asks_for() -> None:
    """The loop knows schedules that measure by their methods alone."""
    assert isinstance(AgreementSchedule(), MeasuringSchedule)
    assert not isinstance(BernoulliSchedule(), StatefulSchedule)


def test_steps_are_full_before_anything_is_measured() -> None:
    assert set(modes(AgreementSchedule(), range(300))) == {Mode.FULL}


def test_low_steps_while_they_pay() -> None:
    schedule = AgreementSchedule(every=100, p=0.75)
    schedule.decide(0, gain=0.5, cost=0.2)
    schedule.decide(1000, gain=0.1, cost=0.2)
    early = modes(schedule, range(1000))
    assert early.count(Mode.LOW) == pytest.approx(750, abs=45)
    assert set(modes(schedule, range(1000, 1500))) == {Mode.FULL}
    assert schedule.decisions == ((0, 0.5, 0.75), (1000, 0.1, 0.0))
    # Later decisions change nothing of what was.
    schedule.decide(1500, gain=0.9, cost=0.2)
    assert modes(schedule, range(1000)) == early


def test_the_tail_is_full_whatever_was_measured() -> None:
    schedule = AgreementSchedule(every=100, p=1.0, full_from=3)
    schedule.decide(0, gain=0.9, cost=0.2)
    assert schedule.mode(5, 2) is Mode.LOW and schedule.mode(5, 3) is Mode.FULL
    assert not schedule.due(500, epoch=3)


def test_a_measurement_is_due_every_so_many_steps() -> None:
    schedule = AgreementSchedule(every=100)
    assert schedule.due(0)
    schedule.decide(0, 0.5, 0.2)
    assert next(step for step in range(300) if schedule.due(step)) == 100
    with pytest.raises(ValueError, match="step=50 is before the last decision; give at least 60"):
        schedule.decide(60, 0.5, 0.2)
        schedule.decide(50, 0.5, 0.2)


def test_equal_modes_gain_one_and_the_model_stays_as_it_was() -> None:
    with pytest.warns(UserWarning, match="is the same as full-mode"):
        same = pair(downsample_input=False, keep_convs=["3"])
    state = {name: value.clone() for name, value in same.model.state_dict().items()}
    generator = torch.get_rng_state()
    schedule = AgreementSchedule(every=100, p=1.0, cost=0.5)
    gain = schedule.measure(same, batches(), F.cross_entropy, step=0)
    assert gain == pytest.approx(1, abs=1e-5)
    assert schedule.mode(3, 0) is Mode.LOW
    assert all(torch.equal(value, state[name]) for name, value in same.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(value.grad is None for value in same.model.parameters())


def test_gradients_are_measured_in_the_type_of_the_run() -> None:
    seen = []

    def criterion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return F.cross_entropy(outputs, targets)

    schedule = AgreementSchedule(every=100, cost=0.5)
    schedule.measure(pair(), batches(), criterion, step=0, autocast=torch.bfloat16)
    assert set(seen) == {torch.bfloat16}
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):  # a caller's own is kept
        schedule.measure(pair(), batches(), criterion, step=100)
    assert set(seen) == {torch.bfloat16}


def test_the_cost_is_the_ratio_of_multiply_adds_by_default() -> None:
    schedule = AgreementSchedule(every=100)
    schedule.measure(pair(), batches(), F.cross_entropy, step=7)
    (cost,) = schedule.state_dict()["costs"]
    assert 0.02 < cost < 0.25
    assert schedule.state_dict()["steps"] == [7]


def test_decisions_travel_with_the_net() -> None:
    schedule = AgreementSchedule(every=100, p=0.6)
    schedule.decide(0, 0.5, 0.2)
    net = LowModeModel(pair(), schedule, compile=False)
    copied = copy.deepcopy(net)
    schedule.decide(200, 0.1, 0.2)
    assert isinstance(copied.schedule, AgreementSchedule)
    assert len(copied.schedule.decisions) == 1  # a copy decides for itself

    other = LowModeModel(pair(), AgreementSchedule(every=100, p=0.6), compile=False)
    other.load_schedule_state(net.schedule_state())
    assert isinstance(other.schedule, AgreementSchedule)
    assert modes(other.schedule, range(400)) == modes(schedule, range(400))
    with pytest.raises(KeyError):
        other.load_schedule_state({"step": 0, "epoch": 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": 1}, "batches=1 is too small; give an int of at least 2"),
        ({"p": 1.5}, "p=1.5 is not a probability; give a number from 0 to 1"),
        ({"cost": 0.0}, "cost=0.0 is out of range; give a number above 0"),
        (
            {"every": 50, "batches": 4},
            "every=50 would spend more than 10% of the steps on measuring 4 batches; give at least 80",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        AgreementSchedule(**options)
    assert str(error.value) == message
