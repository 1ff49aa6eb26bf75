"""A run goes on from its own checkpoint alone: what differs is told in a user's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowmode_fx.cli.spelling import command_spelling
from lowmode_fx.cli.train_command import train
from lowmode_fx.train.checkpoint import CheckpointError
from lowmode_fx.train.same_run import require_same_run
from passes.spelling import spelled

BERNOULLI = {"kind": "bernoulli", "p": 0.5, "hold_epochs": 0}


def pair(ratio: object = 2, schedule: object = BERNOULLI, **config: object) -> dict[str, Any]:
    """The identity of a run of one low mode."""
    return {"config": {"ratio": ratio, "kernel_ratio": None, **config}, "schedule": schedule}


def ladder(*epochs: int, **config: object) -> dict[str, Any]:
    """That of a run of several."""
    configs = {f"r{ratio}": {"ratio": ratio, "kernel_ratio": None, **config} for ratio in (4, 2, "4/3")}
    chosen = dict(list(configs.items())[-len(epochs) + 1 :])
    modes = {"configs": chosen} if len(chosen) > 1 else {"config": next(iter(chosen.values()))}
    return {**modes, "schedule": {"kind": "ladder", "epochs": list(epochs), "hold_epochs": 0}}


def told(saved: Any, wanted: Any, **more: Any) -> str:
    """What a command says of two runs' low modes, between "cannot resume" and what to do."""
    before, now = (
        {"model": "net", "low_mode": mode, **more.get(name, {})} for name, mode in (("a", saved), ("b", wanted))
    )
    with spelled(command_spelling(train.__signature__.parameters)), pytest.raises(CheckpointError) as error:  # type: ignore[attr-defined]
        require_same_run(before, now, Path("run"))
    words = str(error.value)
    start, end = "cannot resume 'run': ", "; give the same again, or --overwrite or another --out"
    assert words.startswith(start) and words.endswith(end)
    return words.removeprefix(start).removesuffix(end)


@pytest.mark.parametrize("modes", [None, pair(), ladder(2, 1), ladder(3, 2, 1), pair(schedule="a repr of old")])
def test_the_same_run_goes_on(modes: Any) -> None:
    require_same_run({"low_mode": modes}, {"low_mode": modes}, Path("run"))


TWO = "r = 2 for 3 epochs, r = 4/3 for 2, full-mode for 1"
#: What the run there had, what is wanted, and what is said of the latter where the modes differ, or of an option.
CASES = {
    "epochs of a ladder": (ladder(3, 2, 1), ladder(3, 1, 2), "r = 2 for 3 epochs, r = 4/3 for 1, full-mode for 2"),
    "a rung less": (ladder(3, 2, 1), ladder(1, 1), "r = 4/3 for 1 epoch, full-mode for 1"),
    "no ladder": (ladder(3, 2, 1), pair(), "low-mode and full-mode by a schedule of kind 'bernoulli'"),
    "full-mode alone": (ladder(3, 2, 1), None, "full-mode alone"),
    "an option of all rungs": (
        ladder(3, 2, 1),
        ladder(3, 2, 1, kernel_ratio=1),
        "--kernel-ratio is 1, the run there has None",
    ),
    "the ratio of a pair": (pair(), pair(3), "--ratio is 3, the run there has 2"),
    "another p": (pair(), pair(schedule={**BERNOULLI, "p": 0.25}), "--p is 0.25, the run there has 0.5"),
}


@pytest.mark.parametrize("name", CASES)
def test_differing_low_modes_are_told_as_they_were_given(name: str) -> None:
    saved, wanted, message = CASES[name]
    if not message.startswith("--"):
        message = f"its modes would be {message}; the run there has {TWO}"
    assert told(saved, wanted) == message


def test_long_values_are_cut_and_data_keep_their_names() -> None:
    classes = [f"class {number}" for number in range(1000)]
    words = told(None, None, a={"data": {"classes": classes}}, b={"data": {"classes": ["cat"]}})
    assert words.startswith("data.classes is ['cat'], the run there has ['class 0', 'class 1'") and len(words) < 120
    assert (
        told(None, None, a={"settings": {"lr": 0.1}}, b={"settings": {"lr": 0.2}})
        == "--lr is 0.2, the run there has 0.1"
    )
