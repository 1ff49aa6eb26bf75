"""``lowmode-fx train`` without a word on low-mode: up a ladder with kernels kept, as ``--ladder`` spells it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from safetensors.torch import load_file

from lowmode_fx.cli.default_ladder import LADDER, modes_of
from lowmode_fx.train.progress import Reporter

QUICK = ("train", "training:tiny_model", "--data", "digits", "--image-size", "8", "--no-compile", "--device", "cpu")
CHOICES = (
    *("preset", "tuned", "ladder", "shares", "schedule"),
    *("p", "tail", "period", "measure_every", "hold_epochs"),
)


def given(**options: Any) -> dict[str, Any]:
    return {**dict.fromkeys(CHOICES), "full_only": False, **options}


def test_it_is_the_ladder_that_it_says(run: Run, tmp_path: Path) -> None:
    """Bit for bit the run with the options that its note names."""
    epochs = ("--epochs", "5")
    told = run(*QUICK, *epochs, "--out", "default").out.splitlines()[0]
    assert told == (
        "note: no low-mode is given, so the run goes up a ladder with kernels kept: --ladder 2,4/3,1 --kernel-ratio 1"
    )
    spelled = run(*QUICK, *epochs, "--out", "spelled", *told.partition("kept: ")[2].split())
    assert spelled.status == 0 and "no low-mode is given" not in spelled.out
    weights = [load_file(tmp_path / name / "checkpoint/model.safetensors") for name in ("default", "spelled")]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("default", "spelled")]
    assert summaries[0]["low_mode"] == summaries[1]["low_mode"]


def test_it_goes_on_by_its_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = ("--epochs", "3")
    assert run(*QUICK, *epochs, "--out", "whole").status == 0
    with monkeypatch.context() as patch:
        stop = signal.SIGTERM
        patch.setattr(Reporter, "step", lambda self, epoch, step: step == 4 and signal.raise_signal(stop))
        assert run(*QUICK, *epochs, "--out", "parts").status == 128 + stop
    again = run("train", "--resume", "parts")
    assert again.status == 0 and "going on from epoch 1, step 5" in again.out
    weights = [load_file(tmp_path / name / "checkpoint/model.safetensors") for name in ("whole", "parts")]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("name", CHOICES)
def test_an_option_of_modes_or_their_schedule_chooses_them(name: str) -> None:
    low = {"ratio": None, "kernel_ratio": None}
    asked = modes_of(given(**{name: 0}), low)
    assert asked.ladder == (0 if name == "ladder" else None) and asked.low is low and not asked.note


@pytest.mark.parametrize("options", [{"ratio": 3}, {"whole_images": True}])
def test_an_option_of_images_chooses_a_pair(options: dict[str, Any]) -> None:
    assert modes_of(given(), options) == (None, options, "")


def test_a_run_in_full_mode_alone_has_none() -> None:
    assert modes_of(given(full_only=True), {}) == (None, {}, "")


def test_options_of_kernels_are_those_of_the_ladder() -> None:
    low = {"pool_convs": "large"}
    assert modes_of(given(), low) == (
        LADDER,
        low,
        "note: no schedule is given, so the run goes up a ladder: --ladder 2,4/3,1",
    )
    assert modes_of(given(), {"keep_convs": "0"}).low == {"keep_convs": "0"}
    others = {"batchnorm": "share"}
    assert modes_of(given(), others).low == {"batchnorm": "share", "kernel_ratio": "1"}


def test_a_run_from_before_the_default_goes_on_as_it_was(run: Run, tmp_path: Path) -> None:
    """Its summary holds no option of modes: half of its steps are low, drawn."""
    assert run(*QUICK, "--epochs", "2", "--p", "0.5", "--out", "old").status == 0
    summary = tmp_path / "old/summary.json"
    values = json.loads(summary.read_text())
    assert values["options"].pop("p") == "0.5"
    summary.write_text(json.dumps(values))
    again = run("train", "--resume", "old")
    assert again.status == 0 and "no low-mode is given" not in again.out, again.error
