"""``lowmode-fx probe``, ``tune`` and ``train --tuned`` as their user meets them."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
from commands import Run
from training import write_images

from lowmode_fx import LadderSchedule, LowModeConfig, Tuning

DATA = ("--data", "digits", "--image-size", "8", "--device", "cpu")
MODEL = "training:tiny_model"


def test_tune_writes_what_train_takes(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("tune", MODEL, *DATA, "--epochs", "10", "--ratios", "2", "--modes", "2", "--measure", "macs")
    assert status == 0
    assert "r = 2, kernels kept" in out and "in 3 trial runs its gain was" in out
    tuned = json.loads((tmp_path / "tuned.json").read_text())
    command = next(line for line in out.splitlines() if line.startswith("train with it: lowmode-fx "))
    assert "--image-size 8" in command and command.endswith("--tuned tuned.json")
    arguments = shlex.split(command.removeprefix("train with it: lowmode-fx "))
    status, out, _ = run(*arguments, "--device", "cpu", "--no-compile", "--out", "run")
    assert status == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["settings"]["epochs"] == tuned["epochs"]
    assert summary["low_mode"]["config"] == tuned["config"]
    assert summary["low_mode"]["schedule"]["p"] == tuned["schedule"]["p"]
    assert summary["low_mode"].get("low_weight", 1.0) == tuned["low_weight"]
    assert "was measured at" not in out
    status, out, _ = run(*arguments, "--lr", "0.1", "--device", "cpu", "--no-compile", "--out", "other")
    assert status == 0 and "note: tuned.json was measured at --lr 0.05, and this run has 0.1" in out


def test_a_ladder_that_tune_wrote_trains(run: Run, tmp_path: Path) -> None:
    tuning = Tuning(
        LowModeConfig(kernel_ratio=1),
        LadderSchedule((2, 1, 1)),
        1.0,
        4,
        0.5,
        more=(LowModeConfig(ratio="4/3", kernel_ratio=1),),
    )
    (tmp_path / "tuned.json").write_text(tuning.to_json())
    status, _, _ = run(
        "train", MODEL, *DATA, "--tuned", "tuned.json", "--device", "cpu", "--no-compile", "--out", "run"
    )
    assert status == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["settings"]["epochs"] == 4
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    ran = [[name for name, steps in row.items() if name.startswith("steps_") and int(steps)] for row in rows]
    assert ran == [["steps_r2"], ["steps_r2"], ["steps_r4/3"], ["steps_full"]]


@pytest.mark.parametrize(
    ("options", "multiplier", "rule"),
    [
        ((), {"r2": 4.0, "r4/3": 1.5}, "sqrt"),
        (("--batch-multiplier", "2"), 2, "linear"),
        (("--lr-rule", "none"), {"r2": 4.0, "r4/3": 1.5}, "none"),
    ],
)
def test_batches_that_tune_planned_grow_in_the_run(
    run: Run, tmp_path: Path, options: tuple[str, ...], multiplier: object, rule: str
) -> None:
    tuning = Tuning(
        LowModeConfig(kernel_ratio=1),
        LadderSchedule((1, 1, 1)),
        1.0,
        3,
        0.5,
        more=(LowModeConfig(ratio="4/3", kernel_ratio=1),),
        batch_multiplier={"r2": 4.0, "r4/3": 1.5},
        lr_rule="sqrt",
    )
    (tmp_path / "tuned.json").write_text(tuning.to_json())
    status, _, told = run(
        "train", MODEL, *DATA, "--tuned", "tuned.json", "--device", "cpu", "--no-compile", "--out", "run", *options
    )
    assert status == 0 and "does nothing here" not in told
    low_mode = json.loads((tmp_path / "run" / "summary.json").read_text())["low_mode"]
    assert (low_mode["batch_multiplier"], low_mode["lr_rule"]) == (multiplier, rule)


def test_larger_batches_are_priced_unless_they_are_not_wanted(run: Run, tmp_path: Path) -> None:
    arguments = ("tune", MODEL, *DATA, "--epochs", "10", "--ratios", "2", "--modes", "2", "--seconds", "60")
    status, out, _ = run(*arguments)
    tried = [line for line in out.splitlines() if " × the images " in line]
    assert status == 0 and tried  # either that they were not tried, or how they did
    status, out, _ = run(*arguments, "--batch-multiplier", "1")
    assert status == 0 and " × the images " not in out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("4,2", "--batch-multiplier 4,2 is a list; give pixels, or one number, as 4"),
        ("many", "--batch-multiplier 'many' is no number; give pixels, or one number, as 4"),
        ("0.5", "--batch-multiplier 0.5 is out of range"),
    ],
)
def test_multipliers_that_tune_refuses(run: Run, given: str, told: str) -> None:
    status, _, error = run("tune", MODEL, *DATA, "--batch-multiplier", given)
    assert status != 0 and told in error


def test_tune_says_where_low_mode_does_not_pay(run: Run, tmp_path: Path) -> None:
    status, out, told = run("tune", MODEL, *DATA, "--epochs", "1", "--ratios", "2", "--measure", "macs")
    assert told.splitlines()[:3] == [
        "reading batches …",
        "short full run of 8 steps …",
        "measuring r = 2, kernels kept …",
    ]
    assert status == 0 and json.loads((tmp_path / "tuned.json").read_text())["schedule"]["p"] == 0.0
    assert out.splitlines()[-1].startswith("train without low-mode: lowmode-fx train ")
    assert out.splitlines()[-1].endswith("--full-only --epochs 1")


def test_probe_prints_every_site_and_draws(run: Run, tmp_path: Path) -> None:
    arguments = ("probe", MODEL, *DATA, "--steps", "4", "--batches", "2", "--pool-convs", "all")
    status, out, _ = run(*arguments, "--out", "plots/probe.png")
    assert status == 0
    assert "after 4 full steps" in out and "less than 0 is worse (░)" in out
    assert [line.split()[0] for line in out.splitlines() if "1×1" in line] == ["0", "3"]
    assert (tmp_path / "plots" / "probe.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = run(*arguments, "--format", "csv")
    assert out.splitlines()[0] == "site,kernel,pooled,macs_saved,agreement_lost" and len(out.splitlines()) == 3


def test_train_with_a_schedule_that_measures(run: Run, tmp_path: Path) -> None:
    settings = ("--epochs", "2", "--no-compile", "--out", "run", "--schedule", "agreement", "--measure-every", "100")
    status, out, _ = run("train", MODEL, *DATA, *settings, "--precise-bn", "3", "--low-weight", "0.5")
    assert status == 0
    assert "as many steps as measuring says" in out and "a low step gains" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["low_mode"]["schedule"]["kind"] == "agreement" and summary["low_mode"]["low_weight"] == 0.5
    assert summary["settings"]["precise_bn"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("probe", MODEL, *DATA, "--format", "xml"),
            "--format: 'xml' is not one of 'table', 'json', 'csv'; see --help",
        ),
        (
            ("probe", MODEL, *DATA, "--batches", "1"),
            "--batches 1 is out of range; give an int from 2 to 1000",
        ),
        (
            ("probe", MODEL, *DATA, "--steps", "1000000", "--pool-convs", "x"),
            "--pool-convs: 'x' matches no convolution",
        ),
        (
            ("probe", MODEL, *DATA, "--steps", "1000000", "--kernel-ratio", "1"),
            "--kernel-ratio 1 keeps all kernels, and none is to be probed; leave it out",
        ),
        (
            ("probe", MODEL, *DATA, "--steps", "1000000", "--keep-convs", "0,3"),
            "low-mode pools no kernel of this model (",
        ),
        (
            ("tune", "training:pointwise_model", *DATA, "--epochs", "100000", "--ratios", "1"),
            "no candidate gives a pair: whole images, kernels averaged: Sequential has nothing to pool: "
            "the kernel of its only convolution is not larger than its stride; use a convolutional network, or give "
            "--ratios 2 instead of --ratios 1",
        ),
        (
            ("tune", MODEL, *DATA, "--ratios", "2,x"),
            "--ratios 'x' is not a ratio; give numbers from 1 to 4, as in 2,4/3",
        ),
        (("tune", MODEL, *DATA, "--ratios", "9"), "--ratios 9 is out of range; give numbers from 1 to 4, as in 2,4/3"),
        (
            ("tune", MODEL, *DATA, "--time-budget", "0"),
            "--time-budget 0.0 is out of range; give a number",
        ),
        (("tune", MODEL, *DATA, "--criterion", "hinge"), "--criterion 'hinge' is unknown; give 'cross_entropy', 'bce'"),
        (("probe", MODEL, *DATA, "--out", "p.jpg"), "--out 'p.jpg' is no PNG; give a name that ends in .png"),
        (("tune", MODEL, *DATA, "--autocast", "fp16"), "--autocast: 'fp16' is not one of 'none', 'bf16'"),
        (("tune", MODEL, *DATA, "--measure", "joules"), "--measure: 'joules' is not one of 'time', 'macs'"),
        (("train", MODEL, *DATA, "--tuned", "no.json"), "--tuned 'no.json' can't be read (No such file or directory)"),
    ],
)
def test_a_mistake_is_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    status, _, error = run(*arguments)
    assert status == 2
    (line,) = (line for line in error.splitlines() if not line.endswith(" …"))
    assert line.startswith("error: ") and message in line


def test_probe_decodes_the_images_that_it_trains_on(run: Run, tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_images(tmp_path / "set" / part, {"cat": 6, "dog": 6})
    options = ("--steps", "1", "--batches", "2", "--batch-size", "4", "--device", "cpu", "--pool-convs", "all")
    outcome = run("probe", MODEL, "--data", "folder:set", *options)
    decoded = [line for line in outcome.error.splitlines() if line.startswith("decoding")]
    assert (outcome.status, decoded) == (0, ["decoding train images …"]), outcome
