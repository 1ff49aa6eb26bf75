"""``train --tuned`` beside other options: what a plan of several low modes excludes is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Run

from lowmode_fx import BernoulliSchedule, LadderSchedule, LowModeConfig
from lowmode_fx.runtime.batch_growth import LrRule
from lowmode_fx.tuning.result import Tuning

MODEL = "training:tiny_model"
QUICK = ("--data", "digits", "--image-size", "8", "--device", "cpu", "--no-compile")
PLAN = "and --tuned 'plan.json' plans 2, r2, r4/3; leave"


@pytest.fixture(autouse=True)
def plan(tmp_path: Path) -> None:
    low, nearly = LowModeConfig(pool_convs="all"), LowModeConfig(ratio="4/3", kernel_ratio=1)
    weights = {"r2": 0.5, "r4/3": 0.8}
    (tmp_path / "plan.json").write_text(Tuning(low, LadderSchedule((1, 1, 1)), weights, 3, 0.5, (nearly,)).to_json())
    (tmp_path / "alone.json").write_text(Tuning(low, BernoulliSchedule([1.0, 0.0]), 0.5, 2, 0.5).to_json())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--p 0.5", f"--p 0.5 is for one low mode, {PLAN} it out, or give --shares"),
        ("--tail 0.3", f"--tail 0.3 is for one low mode, {PLAN} it out, or give --shares"),
        ("--p 0.5 --tail 0.3", f"--p 0.5 and --tail 0.3 are for one low mode, {PLAN} them out, or give --shares"),
        ("--schedule periodic", f"--schedule 'periodic' is for one low mode, {PLAN} it out, or give --shares"),
        (
            "--schedule agreement --p 0.5",
            f"--schedule 'agreement' is for one low mode, {PLAN} it out, or give --shares",
        ),
        ("--ratio 3", f"--ratio 3 would make other low modes, r3, r3-kept, {PLAN} it out"),
        (
            "--ratio 3 --kernel-ratio 1 --pool-convs all",
            f"--ratio 3 and --kernel-ratio 1 would make other low modes, r3-kept, r3-kept-2, {PLAN} them out",
        ),
    ],
)
def test_options_of_a_single_mode_are_refused(run: Run, tmp_path: Path, options: str, message: str) -> None:
    status, out, error = run("train", MODEL, *QUICK, "--tuned", "plan.json", *options.split())
    assert (status, out, error) == (2, "", f"error: {message}\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("tuned", "options", "planned"),
    [
        ("plan.json", "--schedule ladder", {"kind": "ladder", "epochs": [1, 1, 1]}),
        ("plan.json", "--kernel-ratio 1", {"kind": "ladder", "epochs": [1, 1, 1]}),
        ("plan.json", "--shares 0,0.5,0.5 --epochs 2", {"kind": "ladder", "epochs": [0, 1, 1]}),
        ("alone.json", "--ratio 4", {"kind": "bernoulli", "p": [1.0, 0.0]}),
    ],
)
def test_others_override_the_plan(
    run: Run, tmp_path: Path, tuned: str, options: str, planned: dict[str, object]
) -> None:
    outcome = run("train", MODEL, *QUICK, "--tuned", tuned, *options.split(), "--out", "run")
    assert outcome.status == 0, outcome.error
    schedule = json.loads((tmp_path / "run/summary.json").read_text())["low_mode"]["schedule"]
    assert {name: schedule[name] for name in planned} == planned


@pytest.mark.parametrize(
    ("planned", "options", "rule", "noted"),
    [
        ("linear", "--optimizer adamw --lr 0.001", "sqrt", "note: --lr-rule is sqrt, as usual with adamw: grow.json"),
        ("linear", "--optimizer adamw --lr 0.001 --lr-rule linear", "linear", ""),
        ("none", "--optimizer adamw --lr 0.001", "none", ""),
        ("linear", "", "linear", ""),
    ],
)
def test_an_adaptive_optimizer_has_its_own_rule_of_larger_batches(
    run: Run, tmp_path: Path, planned: LrRule, options: str, rule: str, noted: str
) -> None:
    plan = BernoulliSchedule([1.0, 0.0])
    growing = Tuning(LowModeConfig(kernel_ratio=1), plan, 1.0, 2, 0.5, batch_multiplier=2.0, lr_rule=planned)
    (tmp_path / "grow.json").write_text(growing.to_json())
    outcome = run("train", MODEL, *QUICK, "--tuned", "grow.json", *options.split(), "--out", "run")
    assert outcome.status == 0, outcome.error
    assert json.loads((tmp_path / "run/summary.json").read_text())["low_mode"]["lr_rule"] == rule
    notes = [line for line in outcome.out.splitlines() if "--lr-rule" in line]
    assert [line.split(" plans")[0] for line in notes] == [noted] * bool(noted)


@pytest.mark.parametrize("modes", ["--tuned plan.json", "--tuned alone.json", "--ladder 2x1,4/3x1,1x1", "--p 0.5"])
def test_a_rule_without_larger_batches_is_idle(run: Run, modes: str) -> None:
    """The plans' batches, and those of a ladder, don't grow unless they are asked to."""
    outcome = run("train", MODEL, *QUICK, *modes.split(), "--lr-rule", "sqrt", "--batch-size", "700")
    idle = "note: --lr-rule sqrt does nothing here: no batches grow, as by --batch-multiplier above 1"
    assert outcome.status == 0 and idle in outcome.out.splitlines(), outcome


def test_pixels_of_whole_images_are_idle(run: Run) -> None:
    options = ("--whole-images", "--pool-convs", "all", "--epochs", "1", "--p", "0.5", "--hold-epochs", "0")
    outcome = run("train", MODEL, *QUICK, *options, "--batch-multiplier", "pixels", "--batch-size", "700")
    idle = "note: --batch-multiplier pixels does nothing here: no low mode has smaller images"
    assert outcome.status == 0 and idle in outcome.out.splitlines(), outcome
