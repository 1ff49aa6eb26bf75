"""Ladders in time: plans by epochs and by shares, draws within an epoch, each against an oracle in exact arithmetic."""

from __future__ import annotations

import copy
import math
import pickle
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowmode_fx import BernoulliSchedule, LadderSchedule, Mode
from lowmode_fx.runtime.schedules import ladder, low_fraction, mode_fractions, schedule_from_dict, uniform_draw

SEEDS = st.integers(0, 2**64 - 1)
#: Weights of two to five modes, some of them 0.
WEIGHTS = st.lists(st.integers(0, 12), min_size=2, max_size=5).filter(any)


def places(schedule: LadderSchedule, epochs: int, step: int = 0) -> list[int]:
    """The place of the mode of one step in each epoch, 0 for the cheapest."""
    return [schedule.modes.index(schedule.mode(step, epoch)) for epoch in range(epochs)]


# By epochs -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 12), min_size=2, max_size=5), st.integers(0, 10**6))
def test_modes_follow_one_another_and_later_epochs_are_full(epochs: list[int], step: int) -> None:
    written_out = [place for place, count in enumerate(epochs) for _ in range(count)]
    last = len(epochs) - 1
    assert places(LadderSchedule(epochs=epochs), sum(epochs) + 5, step) == [*written_out, *[last] * 5]


def test_modes_are_places_which_a_ladder_takes_for_its_own() -> None:
    schedule = LadderSchedule(epochs=(1, 1, 1))
    assert schedule.count == 3
    assert schedule.modes == (Mode("rung0"), Mode("rung1"), Mode.FULL)
    assert [schedule.mode(9, epoch) for epoch in range(4)] == [*schedule.modes, Mode.FULL]
    assert LadderSchedule(epochs=(1, 1)).modes == (Mode.LOW, Mode.FULL)


def test_modes_by_name() -> None:
    schedule = LadderSchedule(epochs=(1, 1, 1), modes=["r2", Mode("r4/3"), "full"])
    assert [schedule.mode(0, epoch) for epoch in range(3)] == [Mode("r2"), Mode("r4/3"), Mode.FULL]


def test_held_epochs_are_full_and_take_the_place_of_others() -> None:
    schedule = LadderSchedule(epochs=(4, 4, 2), hold_epochs=2, milestones=(0, 5))
    assert places(schedule, 10) == [2, 2, 0, 0, 1, 2, 2, 1, 2, 2]


# By shares -----------------------------------------------------------------------------------------------------------


@given(WEIGHTS, st.integers(1, 80))
def test_an_epoch_is_of_the_share_in_which_its_middle_lies(weights: list[int], epochs: int) -> None:
    total = sum(weights)
    ends = [Fraction(sum(weights[: place + 1]), total) for place in range(len(weights))]
    middles = [Fraction(2 * epoch + 1, 2 * epochs) for epoch in range(epochs)]
    expected = [next(place for place, end in enumerate(ends) if middle < end) for middle in middles]
    if weights[-1]:
        expected[-1] = len(weights) - 1  # the full tail

    schedule = LadderSchedule(shares=[weight / total for weight in weights], epochs=epochs)
    assert places(schedule, epochs) == expected
    assert schedule.epochs is not None and sum(schedule.epochs) == epochs


@pytest.mark.parametrize(
    ("shares", "epochs", "expected"),
    [
        ((0.5, 0.3, 0.2), 30, (15, 9, 6)),
        ((0.1, 0.2, 0.7), 5, (0, 1, 4)),  # ties at 0.5 and 1.5, though 0.1 + 0.2 > 0.3 in floats
        ((0.5, 0.48, 0.02), 10, (5, 4, 1)),
        ((0.5, 0.5, 0.0), 10, (5, 5, 0)),
        ((0.5, 0.3, 0.2), 1, (0, 0, 1)),
        ((0.333333, 0.333333, 0.333333), 300, (100, 100, 100)),
        ((1, 0), 3, (3, 0)),
    ],
)
def test_shares_as_epochs(shares: tuple[float, ...], epochs: int, expected: tuple[int, ...]) -> None:
    assert LadderSchedule(shares=shares, epochs=epochs) == LadderSchedule(epochs=expected)


def test_the_default_of_three_modes() -> None:
    assert LadderSchedule.default(30) == LadderSchedule(epochs=(15, 9, 6))
    assert LadderSchedule.default(20) == LadderSchedule(epochs=(10, 6, 4))


def test_the_default_of_four_modes_and_of_no_other_number() -> None:
    assert LadderSchedule.default(20, modes=4) == LadderSchedule(epochs=(6, 8, 2, 4))
    with pytest.raises(ValueError, match="modes=2 has no default, only 3 and 4; give LadderSchedule"):
        LadderSchedule.default(20, modes=2)
    with pytest.raises(TypeError, match="modes"):
        LadderSchedule.default(20, modes=[3])  # type: ignore[arg-type]


# By probabilities ----------------------------------------------------------------------------------------------------


def drawn_place(draw: float, row: list[float]) -> int:
    """The mode that ``draw`` falls to, by taking one probability after the other off it."""
    left = Fraction(draw)
    for place, probability in enumerate(row):
        if left < Fraction(probability):
            return place
        left -= Fraction(probability)
    return max(place for place, probability in enumerate(row) if probability)  # what rounding leaves of 1


@given(st.lists(WEIGHTS, min_size=1, max_size=4), SEEDS, st.integers(0, 10**9))
def test_draws_fall_to_the_modes_in_order(weights: list[list[int]], seed: int, step: int) -> None:
    rows = [[weight / sum(row) for weight in (row + [0] * 5)[:5]] for row in weights if any(row[:5])]
    schedule = LadderSchedule(probabilities=rows, seed=seed)
    expected = [drawn_place(uniform_draw(seed, step), rows[min(epoch, len(rows) - 1)]) for epoch in range(8)]
    assert places(schedule, 8, step) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), SEEDS, st.integers(0, 10**9), st.integers(0, 9))
def test_of_two_modes_it_is_bernoullis_draw_for_draw(p: list[float], seed: int, step: int, hold: int) -> None:
    held = {"seed": seed, "hold_epochs": hold, "milestones": (3,)}
    drawn = LadderSchedule(probabilities=[(low, 1 - low) for low in p], **held)  # type: ignore[arg-type]
    bernoulli = BernoulliSchedule(p=p, **held)  # type: ignore[arg-type]
    for epoch in range(8):
        for later in range(step, step + 5):
            assert drawn.mode(later, epoch) is bernoulli.mode(later, epoch)
        assert drawn.mode_probabilities(epoch) == pytest.approx(bernoulli.mode_probabilities(epoch))


def test_modes_are_as_frequent_as_they_are_probable() -> None:
    row, steps = (0.5, 0.2, 0.3), 20_000
    schedule = LadderSchedule(probabilities=[row], seed=11)
    found = [schedule.mode(step, 0) for step in range(steps)]
    for mode, probability in zip(schedule.modes, row, strict=True):
        error = 4.5 * math.sqrt(probability * (1 - probability) / steps)
        assert found.count(mode) / steps == pytest.approx(probability, abs=error)


@pytest.mark.parametrize("row", [(0.3, 0.3, 0.4, 0.0), (0.333333, 0.333333, 0.333333, 0.0), (0.1,) * 10 + (0.0,)])
def test_no_rounding_reaches_a_mode_of_probability_0(row: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = LadderSchedule(probabilities=[row])
    monkeypatch.setattr(ladder, "uniform_draw", lambda seed, step: 1 - 2**-53)  # the largest that there is
    assert places(schedule, 1) == [len(row) - 2]
    monkeypatch.setattr(ladder, "uniform_draw", lambda seed, step: 0.0)
    assert places(LadderSchedule(probabilities=[(0.0, *row)]), 1) == [1]


# Fractions, copies, dicts --------------------------------------------------------------------------------------------


def test_fractions_of_the_modes() -> None:
    planned = LadderSchedule(epochs=(5, 3, 2), hold_epochs=1, milestones=(0,))
    assert mode_fractions(planned, epochs=10, steps_per_epoch=7) == {
        Mode("rung0"): 0.4, Mode("rung1"): 0.3, Mode.FULL: 0.3,
    }  # fmt: skip
    assert low_fraction(planned, epochs=10, steps_per_epoch=7) == pytest.approx(0.7)
    drawn = LadderSchedule(probabilities=[(0.5, 0.25, 0.25), (0.0, 0.5, 0.5)])
    assert mode_fractions(drawn, epochs=4, steps_per_epoch=7) == {
        Mode("rung0"): 0.125, Mode("rung1"): 0.4375, Mode.FULL: 0.4375,
    }  # fmt: skip
    assert low_fraction(drawn, epochs=4, steps_per_epoch=7) == 0.5625


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4), st.integers(0, 3), st.integers(0, 9))
def test_expected_fractions_of_a_plan_are_the_counted_ones(epochs: list[int], hold: int, milestone: int) -> None:
    schedule = LadderSchedule(epochs=epochs, hold_epochs=hold, milestones=(milestone,))
    found = [schedule.mode(step, step // 3) for step in range(36)]
    fractions = mode_fractions(schedule, epochs=12, steps_per_epoch=3)
    assert fractions == pytest.approx({mode: found.count(mode) / 36 for mode in schedule.modes if mode in found})


def test_copies_are_equal() -> None:
    schedule = LadderSchedule(probabilities=[(0.5, 0.25, 0.25)], seed=3, modes=("r2", "r4/3", "full"))
    assert schedule == copy.deepcopy(schedule) == pickle.loads(pickle.dumps(schedule))
    assert len({schedule, copy.deepcopy(schedule)}) == 1


def test_dicts_are_these() -> None:
    assert LadderSchedule(shares=(0.5, 0.3, 0.2), epochs=10, hold_epochs=1, milestones=[0]).to_dict() == {
        "kind": "ladder", "epochs": [5, 3, 2], "seed": 0, "modes": ["rung0", "rung1", "full"],
        "hold_epochs": 1, "milestones": [0],
    }  # fmt: skip
    assert LadderSchedule(probabilities=[(1, 0)], seed=5).to_dict() == {
        "kind": "ladder", "probabilities": [[1.0, 0.0]], "seed": 5, "modes": ["low", "full"],
        "hold_epochs": 0, "milestones": [],
    }  # fmt: skip
    assert schedule_from_dict({"kind": "ladder", "shares": [0.5, 0.5], "epochs": 4}) == LadderSchedule(epochs=(2, 2))


# Errors --------------------------------------------------------------------------------------------------------------


def test_a_hold_without_milestones_warns_where_it_was_written() -> None:
    with pytest.warns(UserWarning, match="hold_epochs=4 has no effect without milestones") as seen:
        LadderSchedule(epochs=(1, 1), hold_epochs=4)
    assert seen[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "LadderSchedule has no plan; give epochs=(10, 6, 3), or shares and epochs, or probabilities"),
        ({"epochs": 30}, ValueError, "epochs=30 is one number; give one per mode, such as epochs=(10, 6, 3), or"),
        ({"epochs": (10,)}, ValueError, "epochs=(10,) is too short; give one value per mode, cheapest first and"),
        ({"epochs": (10, -1)}, ValueError, "epochs[1]=-1 is too small; give an int of at least 0"),
        ({"epochs": (10, 2.5)}, TypeError, "epochs[1]=2.5 is of type float; give an int of at least 0"),
        ({"epochs": "10, 6"}, TypeError, "epochs='10, 6' is not a sequence; give one value per mode, cheapest first"),
        (
            {"shares": (0.5, 0.5)},
            ValueError,
            "epochs=None is not the length of a run; give an int with shares, such as epo",
        ),
        ({"shares": (0.5, 0.5), "epochs": (1, 1)}, ValueError, "epochs=(1, 1) is not the length of a run; give"),
        ({"shares": (0.5, 0.5), "epochs": 0}, ValueError, "epochs=0 is too small; give an int of at least 1"),
        ({"shares": (0.5, 0.3), "epochs": 9}, ValueError, "shares=(0.5, 0.3) sums to 0.8; give values that sum"),
        (
            {"shares": (1.5, -0.5), "epochs": 9},
            ValueError,
            "shares[0]=1.5 is not a share; give a number from 0 to 1",
        ),
        ({"shares": 0.5, "epochs": 9}, TypeError, "shares=0.5 is not a sequence; give one value per mode, cheapest"),
        (
            {"probabilities": [(1, 0)], "epochs": (1, 1)},
            ValueError,
            "probabilities and epochs can't be combined;",
        ),
        (
            {"probabilities": [(1, 0)], "shares": (1, 0)},
            ValueError,
            "probabilities and shares can't be combined;",
        ),
        ({"probabilities": []}, ValueError, "probabilities is empty; give one row per epoch, or one for all: [("),
        ({"probabilities": 0.5}, TypeError, "probabilities=0.5 is not a sequence; give one row per epoch: [(0.7, 0.2,"),
        ({"probabilities": (0.5, 0.5)}, TypeError, "probabilities[0]=0.5 is not a sequence; give one value per mode"),
        ({"probabilities": [(1,)]}, ValueError, "probabilities[0]=(1.0,) is too short; give one value per mode"),
        (
            {"probabilities": [(1, 0), (1, 0, 0)]},
            ValueError,
            "probabilities[1] has 3 values, but the first row has 2; give one per mode",
        ),
        (
            {"probabilities": [(1, 0), (0.7, 0.2)]},
            ValueError,
            "probabilities[1]=(0.7, 0.2) sums to 0.9; give values that sum to 1",
        ),
        ({"probabilities": [(math.nan, 1)]}, ValueError, "probabilities[0][0]=nan is not a probability; give a number"),
        ({"epochs": (1, 1), "seed": -1}, ValueError, "seed=-1 is too small; give an int of at least 0"),
        (
            {"epochs": (1, 1), "modes": "r2"},
            TypeError,
            "modes='r2' is not a sequence; give names, such as ('r2', 'r4/3'",
        ),
        (
            {"epochs": (1, 1, 1), "modes": ("r2", "full")},
            ValueError,
            "modes=('r2', 'full') has 2 names for 3 values; give one per value, 'full' last",
        ),
        (
            {"epochs": (1, 1), "modes": ("full", "r2")},
            ValueError,
            "modes=('full', 'r2') is not a ladder; give each mode once, cheapest first and 'full' last",
        ),
        (
            {"epochs": (1, 1, 1), "modes": ("r2", "r2", "full")},
            ValueError,
            "modes=('r2', 'r2', 'full') is not a ladder; give each mode once",
        ),
    ],
)
def test_wording_of_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        LadderSchedule(**arguments)


def test_shares_given_as_epochs_are_recognised() -> None:
    told = r"^epochs=\(0.5, 0.3, 0.2\) are shares of the run; give shares=\(0.5, 0.3, 0.2\) and epochs, such as 30$"
    with pytest.raises(TypeError, match=told):
        LadderSchedule((0.5, 0.3, 0.2))
