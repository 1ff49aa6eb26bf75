"""``--ladder`` and its like: one spelling of several low modes, the schedule that they make, one line for a mistake."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lowmode_fx import LadderSchedule, LowModeConfig, Mode, ModePair
from lowmode_fx.cli.ladder_options import LadderPlan, build_modes, low_mode_configs, read_ladder, rung_pair
from lowmode_fx.cli.schedule_options import ladder_epochs, make_schedule, schedule_kind
from lowmode_fx.train import TrainSettings

THREE = "2x10,4/3x6,1x3"


def plan(text: str) -> LadderPlan:
    return read_ladder(text)


# The spelling --------------------------------------------------------------------------------------------------------


def test_a_ladder_with_its_epochs() -> None:
    assert read_ladder(THREE) == LadderPlan(THREE, (Fraction(2), Fraction(4, 3)), (10, 6, 3), True)
    assert read_ladder(" 3, 1.5 ") == LadderPlan(" 3, 1.5 ", (Fraction(3), Fraction(3, 2)), (), False)


RATIOS = st.fractions(min_value=1, max_value=8, max_denominator=6)


@given(st.lists(RATIOS, min_size=1, unique=True), st.lists(st.integers(0, 300)), st.booleans())
def test_what_is_written_is_what_is_read(ratios: list[Fraction], epochs: list[int], with_epochs: bool) -> None:
    """For every ladder there is: ratios as fractions, largest first; epochs for all of them or for none."""
    ordered = sorted(ratios, reverse=True)
    epochs = (epochs + [1] * len(ordered))[: len(ordered)]
    written = [f"{ratio}x{count}" if with_epochs else f"{ratio}" for ratio, count in zip(ordered, epochs, strict=True)]
    low = tuple(ratio for ratio in ordered if ratio != 1)
    if not low:
        with pytest.raises(ValueError, match="has no low mode"):
            read_ladder(",".join(written))
        return
    found = read_ladder(",".join(written))
    assert (found.ratios, found.ends_full) == (low, 1 in ratios)
    assert found.epochs == (tuple(epochs) if with_epochs else ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--ladder has '', which is no ratio of at least 1; give ratios, as in 2x10,4/3x6,1x3"),
        ("2x,1", "--ladder has '2x', which is no ratio of at least 1"),
        ("2,,1", "--ladder has '', which is no ratio"),
        ("2x-1", "--ladder has '2x-1', which is no ratio"),
        ("2x1.5", "--ladder has '2x1.5', which is no ratio"),
        ("4/0", "--ladder has '4/0', which is no ratio"),
        ("1/2", "--ladder has '1/2', which is no ratio of at least 1"),
        ("0", "--ladder has '0', which is no ratio of at least 1"),
        ("inf", "--ladder has 'inf', which is no ratio"),
        ("1e3", "--ladder has '1e3', which is no ratio"),
        (
            "4/3x6,2x10,1x3",
            "--ladder 4/3x6,2x10,1x3 is not in order: the cheapest mode comes first, full-mode (1) last, each once; "
            "give 2x10,4/3x6,1x3",
        ),
        ("1,2", "is not in order: the cheapest mode comes first, full-mode (1) last, each once; give 2,1"),
        ("2,4/2,1", "is not in order: the cheapest mode comes first, full-mode (1) last, each once; give 2,1"),
        (
            "1.001",
            "ladder='1.001' is not a fraction with a denominator of up to 100; give the nearest, '1', or another",
        ),
        ("2x3,1", "--ladder 2x3,1 gives epochs to some of its modes; give them to all, as in 2x10,4/3x6,1x3"),
        ("1x5", "--ladder 1x5 has no low mode; give ratios above 1, as in 2x10,4/3x6,1x3"),
    ],
)
def test_what_is_no_ladder(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        read_ladder(text)
    assert message in str(error.value) and "\n" not in str(error.value)


# The modes -----------------------------------------------------------------------------------------------------------


def test_other_options_are_every_modes() -> None:
    low = {"ratio": None, "kernel_ratio": 1, "drop_maxpools": "stem", "pool_convs": None}
    assert low_mode_configs("", plan("4x1,2x1,1x1"), low) == [
        LowModeConfig(ratio=4, kernel_ratio=1, drop_maxpools="stem"),
        LowModeConfig(ratio=2, kernel_ratio=1, drop_maxpools="stem"),
    ]
    assert low_mode_configs("paper", plan("3,2"), {})[0] == LowModeConfig(
        ratio=3, drop_maxpools="stem", batchnorm="share"
    )
    assert low_mode_configs("", None, low) == [LowModeConfig(kernel_ratio=1, drop_maxpools="stem")]
    with pytest.raises(ValueError, match=r"^--ratio 2 and --ladder 3,2 exclude each other; give one of them$"):
        low_mode_configs("", plan("3,2"), {"ratio": 2})


def test_one_low_mode_makes_a_pair_and_several_a_ladder() -> None:
    model, example = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 3)), torch.zeros(2, 3, 24, 24)
    pair = build_modes(model, example, low_mode_configs("", plan("3"), {}))
    assert isinstance(pair, ModePair) and rung_pair(pair, None).low is pair.low
    ladder = build_modes(model, example, low_mode_configs("", plan("3,2"), {}))
    assert [str(mode) for mode in ladder.modes] == ["r3", "r2", "full"]
    for name, place in (("r3", 0), (None, 0), ("r2", 1)):
        chosen = rung_pair(ladder, name)
        assert chosen.low is ladder.rungs[place].graph_module and chosen.full is ladder.full
    for name in ("r4", "full", "low"):
        with pytest.raises(ValueError, match=f"^--mode '{name}' is no low mode; give r3, r2$"):
            rung_pair(ladder, name)


# The schedule --------------------------------------------------------------------------------------------------------

QUIET: dict[str, Any] = {"p": None, "tail": None, "period": 2, "hold_epochs": None, "every": 500, "paper": False}


def schedule(ladder: str | None, epochs: int = 19, **options: Any) -> LadderSchedule:
    ratios = () if ladder is None else plan(ladder).ratios
    modes = (*(f"r{ratio}" for ratio in ratios), "full") if ratios else ("low", "full")
    arguments = {**QUIET, "plan": ladder and plan(ladder), "modes": modes, **options}
    made = make_schedule("ladder", TrainSettings(epochs=epochs, milestones=(8,)), None, **arguments)
    assert isinstance(made, LadderSchedule)
    return made


def test_each_mode_has_its_epochs_under_its_own_name() -> None:
    made = schedule(THREE)
    names = [str(made.mode(step, epoch)) for step, epoch in enumerate(range(21))]
    assert names == ["r2"] * 10 + ["r4/3"] * 6 + ["full"] * 5
    assert made.mode(0, 0) is Mode("r2"), "and no epoch is held unless that is asked for"


def test_each_mode_has_its_share_of_the_epochs() -> None:
    made = schedule("2,4/3,1", epochs=30, shares="0.5,0.3, 0.2")
    names = [str(made.mode(0, epoch)) for epoch in range(30)]
    assert names == ["r2"] * 15 + ["r4/3"] * 9 + ["full"] * 6
    pair = schedule(None, epochs=10, shares="0.7,0.3")
    assert [str(pair.mode(0, epoch)) for epoch in (6, 7)] == ["low", "full"]


def test_held_epochs_are_full() -> None:
    made = schedule(THREE, hold_epochs=1)
    assert [epoch for epoch in range(16) if made.mode(0, epoch) is Mode.FULL] == [0, 8]


@pytest.mark.parametrize(
    ("kind", "ladder", "shares", "expected"),
    [
        (None, None, None, "bernoulli"),
        (None, THREE, None, "ladder"),
        (None, None, "0.7,0.3", "ladder"),
        ("ladder", THREE, None, "ladder"),
        ("periodic", None, None, "periodic"),
    ],
)
def test_a_ladder_brings_its_schedule(kind: str | None, ladder: str | None, shares: str | None, expected: str) -> None:
    assert schedule_kind(kind, ladder and plan(ladder), shares) == expected


def test_the_epochs_of_a_ladder_are_the_runs() -> None:
    assert ladder_epochs(plan(THREE), None) == ladder_epochs(plan(THREE), 19) == 19
    assert ladder_epochs(plan("2,1"), 5) == ladder_epochs(None, 5) == 5 and ladder_epochs(None, None) is None


@pytest.mark.parametrize(("ratios", "modes"), [("2,4/3,1", 3), ("8/3,2,4/3,1", 4)])
def test_a_ladder_without_epochs_has_the_default_shares(ratios: str, modes: int) -> None:
    assert schedule(ratios, epochs=30).epochs == LadderSchedule.default(30, modes=modes).epochs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: schedule_kind("daily", None, None),
            "schedule='daily' is unknown; give 'bernoulli', 'periodic', 'agreement' or 'ladder'",
        ),
        (
            lambda: schedule_kind("periodic", plan("2,1"), None),
            "--ladder 2,1 has no meaning for --schedule periodic; leave one of them out",
        ),
        (
            lambda: schedule_kind("bernoulli", None, "1,0"),
            "--shares 1,0 has no meaning for --schedule bernoulli; leave one of them out",
        ),
        (
            lambda: ladder_epochs(plan(THREE), 30),
            "--epochs 30 is not what --ladder 2x10,4/3x6,1x3 adds up to, 19; leave it out",
        ),
        (
            lambda: schedule("2x10,4/3x6"),
            "--ladder 2x10,4/3x6 has no full-mode; in train it ends with 1, as in 2x10,4/3x6,1x3",
        ),
        (
            lambda: schedule(None, epochs=10, shares="0.5,0.3,0.2"),
            "--shares 0.5,0.3,0.2 gives 3 for 2 modes, low, full; name the modes by --ladder, as 2,4/3,1, or give two",
        ),
        (
            lambda: schedule(THREE, shares="0.5,0.3,0.2"),
            "--shares 0.5,0.3,0.2 and the epochs of --ladder 2x10,4/3x6,1x3 exclude each other",
        ),
        (
            lambda: schedule("2,1"),
            "--ladder 2,1 doesn't say for how long, and only ladders of three or four modes have default "
            "shares; give epochs, as in --ladder 2x10,4/3x6,1x3, or --shares",
        ),
        (
            lambda: schedule(None),
            "--schedule ladder doesn't say for how long, and only ladders of three or four modes have default "
            "shares; give epochs, as in --ladder 2x10,4/3x6,1x3, or --shares",
        ),
        (
            lambda: schedule("2,4/3,1", shares="half"),
            "--shares 'half' is no list of numbers; give one for each mode: 0.5,0.3,0.2",
        ),
        (
            lambda: schedule("2,4/3,1", shares="0.5,0.5"),
            "--shares 0.5,0.5 gives 2 for 3 modes, r2, r4/3, full; give one for each",
        ),
        (
            lambda: schedule(THREE, p="0.5"),
            "--p 0.5 has no meaning for --schedule ladder; give --shares, or epochs in --ladder, instead",
        ),
        (
            lambda: schedule(THREE, tail=0.5),
            "--tail 0.5 has no meaning for --schedule ladder; give --shares, or epochs in --ladder, instead",
        ),
    ],
)
def test_options_at_odds_are_one_line(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
