"""Schedules: literal modes, their fractions, holds, periods, dicts, and the wording of errors."""

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules import (
    SCHEDULES,
    BernoulliSchedule,
    LadderSchedule,
    PeriodicSchedule,
    PlannedSchedule,
    Schedule,
    low_fraction,
    mode_fractions,
    schedule_from_dict,
)

STEPS = 20_000
#: Arguments that make every step low, by the schedule's kind.
ALWAYS_LOW = {"bernoulli": {"p": 1.0}, "periodic": {"period": 1, "low_steps": 1}, "ladder": {"epochs": (10**6, 0)}}


def letters(schedule: Schedule, steps: int, epoch: int = 0) -> str:
    return "".join("L" if schedule.mode(step, epoch) is Mode.LOW else "F" for step in range(steps))


def test_modes_are_these_everywhere() -> None:
    assert letters(BernoulliSchedule(p=0.5, seed=0), 24) == "LFFLFFLFLLFLLLFFLFFFLFFF"


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_fraction_of_low_steps_is_p(p: float) -> None:
    low = letters(BernoulliSchedule(p=p, seed=3), STEPS).count("L") / STEPS
    assert low == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / STEPS))


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 10**9), min_size=2), st.integers(0, 300))
def test_modes_depend_on_neither_order_nor_instance(seed: int, steps: list[int], epoch: int) -> None:
    schedule = BernoulliSchedule(p=0.5, seed=seed)
    forwards = [schedule.mode(step, epoch) for step in steps]
    backwards = [BernoulliSchedule(p=0.5, seed=seed).mode(step, epoch) for step in reversed(steps)]
    assert forwards == backwards[::-1]


@given(
    st.lists(st.integers(0, 60), max_size=4),
    st.integers(1, 10),
    st.integers(0, 80),
    st.sampled_from(sorted(ALWAYS_LOW)),
)
@pytest.mark.filterwarnings("ignore:hold_epochs=.* has no effect:UserWarning")
def test_held_epochs_are_full_and_only_these(milestones: list[int], hold: int, epoch: int, kind: str) -> None:
    always: dict[str, Any] = ALWAYS_LOW[kind]
    schedule = SCHEDULES[kind](**always, hold_epochs=hold, milestones=milestones)
    held = epoch in {start + offset for start in milestones for offset in range(hold)}
    assert letters(schedule, 5, epoch) == ("FFFFF" if held else "LLLLL")


def test_p_of_each_epoch_and_the_last_goes_on() -> None:
    schedule = BernoulliSchedule(p=[1, 0.0, 1.0, 0])
    assert [letters(schedule, 3, epoch) for epoch in (0, 1, 2, 3, 4, 500)] == ["LLL", "FFF", "LLL", "FFF", "FFF", "FFF"]


def test_p_as_a_function_of_the_epoch() -> None:
    schedule = BernoulliSchedule(p=lambda epoch: 0.9 if epoch < 2 else 0.2, hold_epochs=1, milestones=(1,))
    assert [schedule.low_probability(epoch) for epoch in range(4)] == [0.9, 0.0, 0.2, 0.2]


@pytest.mark.parametrize(
    ("period", "low_steps", "expected"),
    [(2, 1, "FLFLFLFL"), (4, 1, "FFFLFFFL"), (4, 3, "FLLLFLLL"), (3, 0, "FFFFFFFF"), (3, 3, "LLLLLLLL")],
)
def test_the_last_steps_of_a_period_are_low(period: int, low_steps: int, expected: str) -> None:
    assert letters(PeriodicSchedule(period, low_steps), 8) == expected


def test_low_steps_of_each_epoch() -> None:
    schedule = PeriodicSchedule(period=3, low_steps=[2, 1])
    assert [letters(schedule, 6, epoch) for epoch in range(3)] == ["FLLFLL", "FFLFFL", "FFLFFL"]


def test_low_fraction_of_the_paper() -> None:
    schedule = BernoulliSchedule(p=0.5, hold_epochs=4, milestones=(0, 80, 120))
    assert low_fraction(schedule, epochs=200, steps_per_epoch=400) == 0.5 * 188 / 200
    assert low_fraction(schedule, epochs=8, steps_per_epoch=1) == 0.25


def test_low_fraction_counts_periods_over_the_whole_run() -> None:
    # Steps 0 to 5 in epochs of 3: F L F | L F L, and the hold takes the first epoch's one away.
    assert low_fraction(PeriodicSchedule(), epochs=2, steps_per_epoch=3) == 0.5
    held = PeriodicSchedule(hold_epochs=1, milestones=(0,))
    assert low_fraction(held, epochs=2, steps_per_epoch=3) == pytest.approx(2 / 6)
    # Of four epochs of five steps, the first is full.
    assert low_fraction(PeriodicSchedule(period=1, low_steps=[0, 1]), epochs=4, steps_per_epoch=5) == 0.75


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 2), st.integers(0, 5))
def test_expected_low_fraction_is_the_mean_over_epochs(p: list[float], hold: int, milestone: int) -> None:
    schedule = BernoulliSchedule(p=p, hold_epochs=hold, milestones=(milestone,))
    per_epoch = [0.0 if milestone <= epoch < milestone + hold else p[min(epoch, len(p) - 1)] for epoch in range(9)]
    assert low_fraction(schedule, epochs=9, steps_per_epoch=7) == pytest.approx(sum(per_epoch) / 9)


class Stairs:
    """A schedule of a user's own: the modes of three steps, over and over."""

    modes = (Mode("r4"), Mode.FULL, Mode("r2"))

    def mode(self, step: int, epoch: int) -> Mode:
        return self.modes[step % 3] if epoch else self.modes[0]


def test_any_schedules_modes_are_counted_and_full_comes_last() -> None:
    # Epoch 0: three of r4. Epoch 1: r4, full, r2.
    fractions = mode_fractions(Stairs(), epochs=2, steps_per_epoch=3)
    assert fractions == {Mode("r4"): 4 / 6, Mode("r2"): 1 / 6, Mode.FULL: 1 / 6}
    assert list(fractions)[-1] is Mode.FULL
    assert low_fraction(Stairs(), epochs=2, steps_per_epoch=3) == pytest.approx(5 / 6)


def test_modes_that_never_run_have_no_fraction() -> None:
    assert mode_fractions(BernoulliSchedule(p=0.0), 3, 4) == {Mode.FULL: 1.0}
    assert mode_fractions(BernoulliSchedule(p=1.0), 3, 4) == {Mode.LOW: 1.0}
    assert mode_fractions(BernoulliSchedule(p=[0.5, 0.25]), 2, 4) == {Mode.LOW: 0.375, Mode.FULL: 0.625}


PLANNED = st.one_of(
    st.builds(
        BernoulliSchedule,
        p=st.floats(0, 1) | st.lists(st.floats(0, 1), min_size=1),
        seed=st.integers(0, 2**64 - 1),
        hold_epochs=st.integers(0, 9),
        milestones=st.lists(st.integers(0, 99), min_size=1),
    ),
    st.builds(
        PeriodicSchedule,
        period=st.just(7),
        low_steps=st.integers(0, 7) | st.lists(st.integers(0, 7), min_size=1),
        hold_epochs=st.integers(0, 9),
        milestones=st.lists(st.integers(0, 99), min_size=1),
    ),
    st.builds(
        LadderSchedule,
        epochs=st.lists(st.integers(0, 99), min_size=3, max_size=3),
        modes=st.none() | st.just(("r2", "r4/3", "full")),
        hold_epochs=st.integers(0, 9),
        milestones=st.lists(st.integers(0, 99), min_size=1),
    ),
    st.builds(
        LadderSchedule,
        probabilities=st.lists(st.floats(0, 1).map(lambda low: (low, 1 - low)), min_size=1),
        seed=st.integers(0, 2**64 - 1),
    ),
)


@given(PLANNED)
def test_dicts_survive_json(schedule: PlannedSchedule) -> None:
    assert schedule_from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    assert isinstance(schedule, Schedule)


def test_dicts_are_these() -> None:
    assert BernoulliSchedule(p=(1, 0.5), seed=2, hold_epochs=4, milestones=[80, 0]).to_dict() == {
        "kind": "bernoulli", "p": [1.0, 0.5], "seed": 2, "hold_epochs": 4, "milestones": [0, 80],
    }  # fmt: skip
    assert PeriodicSchedule(period=4).to_dict() == {
        "kind": "periodic", "period": 4, "low_steps": 1, "hold_epochs": 0, "milestones": [],
    }  # fmt: skip
    assert schedule_from_dict({"kind": "periodic", "period": 5}) == PeriodicSchedule(period=5)


def test_a_hold_without_milestones_warns_where_it_was_written() -> None:
    with pytest.warns(UserWarning, match=r"hold_epochs=4 has no effect without milestones; .*=\(0,\)") as seen:
        BernoulliSchedule(hold_epochs=4)
    assert seen[0].filename == __file__


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        (BernoulliSchedule, {"p": 1.5}, ValueError, "p=1.5 is not a probability; give a number from 0 to 1"),
        (BernoulliSchedule, {"p": math.nan}, ValueError, "p=nan is not a probability; give a number from 0 to 1"),
        (BernoulliSchedule, {"p": [0.5, -1]}, ValueError, "p[1]=-1 is not a probability; give a number from 0 to 1"),
        (BernoulliSchedule, {"p": []}, ValueError, "p is empty; give one value per epoch, or a single value"),
        (BernoulliSchedule, {"p": "half"}, TypeError, "p='half' is of type str; give a number from 0 to 1"),
        (BernoulliSchedule, {"p": True}, TypeError, "p=True is of type bool; give a number from 0 to 1"),
        (BernoulliSchedule, {"seed": -1}, ValueError, "seed=-1 is too small; give an int of at least 0"),
        (BernoulliSchedule, {"seed": 2**64}, ValueError, f"seed={2**64} does not fit in 64 bits; give an int from 0"),
        (BernoulliSchedule, {"seed": 0.0}, TypeError, "seed=0.0 is of type float; give an int of at least 0"),
        (BernoulliSchedule, {"hold_epochs": -1}, ValueError, "hold_epochs=-1 is too small; give an int of at least 0"),
        (
            BernoulliSchedule,
            {"milestones": 80},
            TypeError,
            "milestones=80 is not a sequence; give epochs, such as (0, 80",
        ),
        (BernoulliSchedule, {"milestones": (0, -80)}, ValueError, "milestones[1]=-80 is too small; give an int of at"),
        (PeriodicSchedule, {"period": 0}, ValueError, "period=0 is too small; give an int of at least 1"),
        (PeriodicSchedule, {"low_steps": 3}, ValueError, "low_steps=3 is more than period=2; give an int from 0 to 2"),
        (PeriodicSchedule, {"low_steps": (1, 9)}, ValueError, "low_steps[1]=9 is more than period=2; give an int from"),
        (PeriodicSchedule, {"low_steps": 0.5}, TypeError, "low_steps=0.5 is of type float; give an int of at least 0"),
    ],
)
def test_wording_of_errors(kind: type, arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        kind(**arguments)


@pytest.mark.parametrize("schedule", [BernoulliSchedule(), PeriodicSchedule(), LadderSchedule(epochs=(1, 1))])
def test_negative_steps_and_epochs_are_refused(schedule: Schedule) -> None:
    with pytest.raises(ValueError, match=r"^step=-1 is too small; give an int of at least 0"):
        schedule.mode(-1, 0)
    with pytest.raises(ValueError, match=r"^epoch=-1 is too small; give an int of at least 0"):
        schedule.mode(0, -1)
    with pytest.raises(TypeError, match=r"^step=1\.0 is of type float; give an int"):
        schedule.mode(1.0, 0)  # type: ignore[arg-type]


def test_a_function_out_of_range_is_named_with_its_epoch() -> None:
    with pytest.raises(ValueError, match=r"^p\(3\)=1\.5 is not a probability; give a number from 0 to 1"):
        BernoulliSchedule(p=lambda epoch: epoch / 2).mode(0, 3)


def test_a_function_has_no_dict() -> None:
    with pytest.raises(TypeError, match=r"is a function, which can't be serialised; give its values: p=\[function"):
        BernoulliSchedule(p=lambda epoch: 0.5).to_dict()


def test_unknown_kinds_and_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"^kind='random' is unknown; give 'bernoulli', 'ladder' or 'periodic'$"):
        schedule_from_dict({"kind": "random"})
    with pytest.raises(ValueError, match=r"^a periodic schedule has no 'seed'; near matches: period, low_steps"):
        schedule_from_dict({"kind": "periodic", "seed": 1})
    with pytest.raises(ValueError, match=r"^steps_per_epoch=0 is too small; give an int of at least 1"):
        low_fraction(BernoulliSchedule(), 1, 0)
