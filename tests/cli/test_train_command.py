"""``lowmode-fx train`` as its user meets it: a run, its folder, and one line for each mistake."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Run
from safetensors.torch import load_file
from training import write_images

from lowmode_fx import BernoulliSchedule, cli
from lowmode_fx.cli.schedule_options import ends_full, low_shares, make_schedule
from lowmode_fx.cli.settings_options import run_settings
from lowmode_fx.train import TrainSettings
from lowmode_fx.train.progress import Reporter
from lowmode_fx.train.resume import save

QUICK = ("--data", "digits", "--image-size", "8", "--epochs", "2", "--no-compile", "--device", "cpu")
MODEL = "training:tiny_model"
#: Low steps drawn by chance, with kernels that are pooled.
DRAWN = (*QUICK, "--p", "0.5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one whole run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["lowmode-fx", "train", MODEL, *DRAWN, "--pool-convs", "all", "--out", str(folder)]
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as exit_:
            cli.main()
            raise SystemExit(0)
        assert not exit_.value.code
    return folder


def test_a_run_leaves_its_folder(finished: Path) -> None:
    for name in ("metrics.csv", "summary.json", "curves.png", "checkpoint/model.safetensors", "checkpoint/state.pt"):
        assert (finished / name).is_file(), name
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["model"] == MODEL and summary["status"] == "complete"
    assert summary["low_mode"]["config"]["pool_convs"] == "all"
    assert summary["low_mode"]["schedule"]["p"] == 0.5
    assert summary["results"]["low_steps"] > 0 and summary["results"]["full_steps"] > 0


def test_plain_lines_when_piped(run: Run, tmp_path: Path) -> None:
    outcome = run("train", MODEL, *DRAWN)
    assert outcome.status == 0, outcome.error
    lines = outcome.out.splitlines()
    assert lines[0] == f"digits: 1437 + 360 images of 3×8×8, 10 classes; {MODEL} and images on cpu"
    assert lines[1].startswith("low-mode: ") and lines[1].endswith("about 50% of 22 steps")
    assert [line[:20] for line in lines[-4:-1:2]] == ["low-mode: epoch 1/2 ", "low-mode: epoch 2/2 "]
    assert lines[-3].startswith("low-mode: note: low steps in the last epoch leave running statistics old, so they ")
    assert lines[-1].startswith("validation accuracy ") and lines[-1].endswith("see runs/training-tiny_model-digits")
    assert re.search(r" after \d+\.\d s of training \(\d+\.\d% of it for images\); see ", lines[-1])
    assert "\x1b" not in outcome.out
    assert (tmp_path / "runs/training-tiny_model-digits/summary.json").exists()


def test_images_on_the_device_are_decoded_whatever_their_size(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit of what is held without being asked for at a hundred bytes: the same run, from either place."""
    monkeypatch.setattr("lowmode_fx.train.data.MEMORY_LIMIT_BYTES", 100)
    write_images(tmp_path / "set/train", {"cat": 6, "dog": 6})
    write_images(tmp_path / "set/test", {"cat": 2, "dog": 2}, seed=1)
    quick = ("train", MODEL, "--data", f"folder:{tmp_path / 'set'}", "--epochs", "1", "--batch-size", "4")
    options = ("--full-only", "--no-compile", "--device", "cpu", "--workers", "0")
    weights = []
    for place, said, lies in (
        ("auto", f"{MODEL} on cpu, images on the host", "host"),
        ("device", f"{MODEL} and images on cpu", "device"),
    ):
        outcome = run(*quick, *options, "--data-on", place, "--out", place)
        assert outcome.status == 0, outcome.error
        assert any(line.endswith(f"2 classes; {said}") for line in outcome.out.splitlines())
        assert json.loads(Path(place, "summary.json").read_text())["data"]["on"] == lies
        weights.append(Path(place, "checkpoint/model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert (
        "error: --data-on: 'there' is not one of 'auto', 'device', 'host'"
        in run(*quick, *options, "--data-on", "there").error
    )


def test_resume_goes_on_and_overwrite_starts_again(run: Run, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    longer = [*DRAWN, "--pool-convs", "all", "--milestones", "1", "--epochs", "3", "--out", str(folder)]
    resumed = run("train", MODEL, *longer, "--resume")
    assert resumed.status == 0 and "going on from epoch 3, step 0" in resumed.out
    assert len((folder / "metrics.csv").read_text().splitlines()) == 4
    overwritten = run("train", MODEL, *QUICK, "--out", str(folder), "--overwrite")
    assert overwritten.status == 0 and "going on" not in overwritten.out
    assert len((folder / "metrics.csv").read_text().splitlines()) == 3


def test_an_interrupted_run_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "step", lambda self, epoch, step: step == 4 and signal.raise_signal(signal.SIGTERM))
        outcome = run("train", MODEL, *QUICK, "--out", "run")
    assert outcome.status == 128 + signal.SIGTERM
    assert outcome.out.splitlines()[-1] == "interrupted by SIGTERM; lowmode-fx train --resume run goes on"
    resumed = run("train", MODEL, *QUICK, "--out", "run", "--resume")
    assert resumed.status == 0 and "going on from epoch 1, step 5 (run/checkpoint)" in resumed.out


def test_ctrl_c_says_what_is_left_of_a_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_line(place: str, *options: str, saves: int = 0) -> str:
        """saves: how many checkpoints are saved before the interrupt."""
        left = [save] * saves

        def interrupt(*given: Any, **named: Any) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop()(*given)

        with monkeypatch.context() as patch:
            patch.setattr(place, interrupt)
            outcome = run("train", MODEL, *QUICK, "--out", "run", *options)
        assert outcome.status == 130, outcome.error
        return outcome.error.splitlines()[-1]

    building, starting = "lowmode_fx.cli.train_run.load_data", "lowmode_fx.train.loop._Loop.warm_up"
    again = "lowmode-fx train --resume run"
    assert last_line(building) == "interrupted; nothing was written" and not Path("run").exists()
    assert last_line(starting) == f"interrupted; run holds no checkpoint yet; {again} starts its run again"
    assert run("train", "--resume", "run").status == 0
    summary = Path("run", "summary.json").read_bytes()
    kept = "interrupted; nothing was written, and run is as it was"
    assert last_line(building, "--overwrite") == kept and Path("run", "summary.json").read_bytes() == summary
    later = last_line("lowmode_fx.train.loop.save", "--overwrite", saves=1)
    assert later == f"interrupted; {again} goes on from the last checkpoint in run"
    resumed = run("train", "--resume", "run")
    assert resumed.status == 0 and "going on from epoch 2, step 0" in resumed.out


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at random moments of a run of its own, writes of the checkpoint included."""
    options = ["--data", "digits", "--image-size", "8", "--epochs", "40", "--no-compile", "--device", "cpu"]
    command = [sys.executable, "-c", "from lowmode_fx.cli import main; main()", "train", MODEL, *options, "--resume"]
    paths = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}

    def start(folder: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--out", folder], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)

    assert start("straight").wait() == 0
    rng = random.Random(0)
    kills = 0
    for _ in range(4):
        process = start("killed")
        state = tmp_path / "killed/summary.json"
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and not (state.exists() and state.stat().st_mtime_ns > before):
            time.sleep(0.01)  # until the run has begun
        time.sleep(rng.uniform(0, 4))
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills >= 2 and start("killed").wait() == 0
    weights = [load_file(tmp_path / name / "checkpoint/model.safetensors") for name in ("straight", "killed")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("straight", "killed")]
    losses = [[line.split(",")[4:] for line in lines] for lines in rows]
    assert len(rows[0]) == 41 and losses[0] == losses[1]


def test_the_baseline_is_the_plain_model(run: Run) -> None:
    outcome = run("train", MODEL, *QUICK, "--full-only", "--in-chans", "1", "--clip-grad-norm", "0.5")
    assert outcome.status == 0 and "full-mode: epoch 2/2" in outcome.out and "low-mode" not in outcome.out
    summary = json.loads(Path("runs/training-tiny_model-digits-full/summary.json").read_text())
    assert summary["settings"]["clip_grad_norm"] == 0.5
    assert summary["low_mode"] is None and summary["data"]["image_shape"] == [1, 8, 8]


def test_a_timm_model_on_an_image_folder(run: Run, tmp_path: Path) -> None:
    write_images(tmp_path / "set/train", {"cat": 8, "dog": 8}, side=32)
    write_images(tmp_path / "set/test", {"cat": 4, "dog": 4}, side=32)
    outcome = run(
        *("train", "resnet10t", "--data", f"folder:{tmp_path / 'set'}", "--epochs", "1", "--batch-size", "8"),
        *("--no-compile", "--schedule", "periodic", "--drop-maxpools", "stem", "--out", "out"),
    )
    assert outcome.status == 0, outcome.error
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["data"]["classes"] == ["cat", "dog"] and summary["low_mode"]["config"]["drop_maxpools"] == "stem"
    assert summary["results"]["low_steps"] == summary["results"]["full_steps"] == 1


def test_a_schedule_without_low_steps_is_a_warning(run: Run) -> None:
    outcome = run("train", MODEL, *QUICK, "--p", "0")
    assert outcome.status == 0 and "warning: no step is in low-mode; give a larger --p" in outcome.out


def test_three_by_three_kernels_of_one_tap_are_noted_unless_the_paper_is_asked_for(run: Run) -> None:
    told = "note: 2 kernels of 3×3 are pooled to 1×1, as in the paper, whose setting ended below full-mode cut"
    for options, noted in ((("--pool-convs", "all"), True), (("--kernel-ratio", "1"), False)):
        assert (told in run("train", MODEL, *QUICK, *options, "--overwrite").out) == noted
    paper = run("train", MODEL, *QUICK, "--preset", "paper", "--pool-convs", "all", "--overwrite")
    assert paper.status == 0 and "with pooled kernels" in paper.out and "note: 2 kernels" not in paper.out


LADDER = (
    "train",
    MODEL,
    "--data",
    "digits",
    "--image-size",
    "8",
    "--no-compile",
    "--device",
    "cpu",
    "--batch-size",
    "125",
)


def test_a_ladder_by_its_ratios_and_their_epochs(run: Run) -> None:
    outcome = run(*LADDER, "--ladder", "4x1,2x1,1x2", "--pool-convs", "all", "--low-weight", "0.5", "--out", "run")
    assert outcome.status == 0, outcome.error
    lines = outcome.out.splitlines()
    assert lines[1:3] == [f"{mode}-mode: 2 convolutions with pooled kernels; 1 of 4 epochs" for mode in ("r4", "r2")]
    told = [line for line in lines if ": epoch " in line]
    assert [line[:19] for line in told] == [f"ladder: epoch {epoch}/4  " for epoch in range(1, 5)]
    assert [line.split("steps ")[1].split("  lr")[0] for line in told] == ["r4 11", "r2 11", "full 11", "full 11"]
    header, *rows = (Path("run") / "metrics.csv").read_text().splitlines()
    assert header.endswith(",low_steps,full_steps,lr,steps_r4,steps_r2,steps_full")
    assert [row.split(",")[-3:] for row in rows] == [
        ["11", "0", "0"],
        ["0", "11", "0"],
        ["0", "0", "11"],
        ["0", "0", "11"],
    ]
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["results"]["steps"] == {"r4": 11, "r2": 11, "full": 22} and summary["settings"]["epochs"] == 4
    assert {name: config["pool_convs"] for name, config in summary["low_mode"]["configs"].items()} == {
        "r4": "all",
        "r2": "all",
    }
    assert summary["low_mode"]["schedule"]["modes"] == ["r4", "r2", "full"]
    again = run(
        *LADDER, "--ladder", "4x1,2x1,1x2", "--pool-convs", "all", "--low-weight", "0.5", "--out", "run", "--resume"
    )
    assert again.status == 0 and "all 4 epochs are done" in again.out


def test_batches_grow_as_images_shrink(run: Run) -> None:
    ladder = (*LADDER, "--ladder", "4x1,2x1,1x1", "--pool-convs", "all", "--batch-multiplier")
    outcome = run(*ladder, "3,2", "--optimizer", "adamw", "--lr", "0.001", "--out", "run")
    assert outcome.status == 0, outcome.error
    assert "r4-mode: batches of 375 images, at 1.73 times the learning rate" in outcome.out.splitlines()
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["results"]["steps"] == {"r4": 3, "r2": 5, "full": 11}
    assert summary["low_mode"]["batch_multiplier"] == {"r4": 3, "r2": 2} and summary["low_mode"]["lr_rule"] == "sqrt"
    for given, complaint in {
        "3,2,1": "--batch-multiplier 3,2,1 gives 3 for 2 low modes, r4, r2; give one for all, or one for each",
        "0.5": "--batch-multiplier 0.5 is out of range; give a number of at least 1",
        "much": "--batch-multiplier 'much' is no number; give pixels, 4, or such as 4,1.75",
        "16": "--batch-multiplier makes r4-mode's batch 2000 of 1375 images",
    }.items():
        assert complaint in run(*ladder, given, "--out", "other").error
    idle = run(*LADDER, "--ladder", "4x1,2x1,1x1", "--lr-rule", "none", "--pool-convs", "all", "--out", "third")
    assert "note: --lr-rule none does nothing here: no batches grow, as by --batch-multiplier above 1" in idle.out


def test_a_ladder_learns_the_digits(run: Run) -> None:
    outcome = run(
        *("train", "lowmode_fx.cli.demo:demo_model", "--data", "digits", "--image-size", "16", "--no-compile"),
        *("--ladder", "2x2,4/3x1,1x2", "--pool-convs", "layer3*,layer4*", "--batch-size", "48", "--lr", "0.05"),
        *("--lr-schedule", "onecycle", "--device", "cpu", "--out", "run"),
    )
    assert outcome.status == 0, outcome.error
    results = json.loads(Path("run/summary.json").read_text())["results"]
    assert results["final_accuracy"] > 0.9 and results["steps"] == {"r2": 58, "r4/3": 29, "full": 58}


def test_a_ladder_by_shares_and_one_of_a_pair(run: Run) -> None:
    outcome = run(*LADDER, "--ladder", "4,2,1", "--shares", "0.5,0.25,0.25", "--epochs", "4", "--out", "three")
    assert outcome.status == 0, outcome.error
    assert json.loads(Path("three/summary.json").read_text())["results"]["steps"] == {"r4": 22, "r2": 11, "full": 11}
    outcome = run(*LADDER, "--schedule", "ladder", "--shares", "0.5,0.5", "--epochs", "2", "--out", "pair")
    assert outcome.status == 0 and "low-mode: epoch 2/2" in outcome.out and "low steps 11/11" in outcome.out
    assert json.loads(Path("pair/summary.json").read_text())["results"]["steps"] == {"low": 11, "full": 11}


def test_the_baseline_of_a_ladder_has_its_epochs(run: Run) -> None:
    outcome = run(*LADDER, "--ladder", "4x1,2x1,1x1", "--full-only", "--out", "run")
    assert outcome.status == 0 and "full-mode: epoch 3/3" in outcome.out
    assert json.loads(Path("run/summary.json").read_text())["results"]["steps"] == {"full": 33}


def test_low_steps_to_the_end_of_a_ladder_are_reported(run: Run) -> None:
    said = run(*LADDER, "--ladder", "4x1,2x1,1x0", "--out", "run").out
    assert "low steps in the last epoch leave running statistics old, so they come from 11 batches" in said
    said = run(*LADDER, "--ladder", "4x1,2x1,1x0", "--precise-bn", "0", "--out", "old").out
    assert "give full epochs at the end, or leave out --precise-bn" in said


MISTAKES = {
    "unknown model": (["train", "resnet999", *QUICK], "resnet999"),
    "unknown module": (["train", "no_such_module:net", *QUICK], "no_such_module"),
    "data without a kind": (
        ["train", MODEL, *QUICK, "--data", "."],
        "--data '.' is a path without the kind of its data; give folder:. for images in class folders, or another of d",
    ),
    "unknown data": (["train", MODEL, *QUICK, "--data", "mnist"], "--data 'mnist' is unknown; give digits, "),
    "no such path": (["train", MODEL, *QUICK, "--data", "folder:nowhere"], "data path 'nowhere' does not exist"),
    "no class folders": (
        ["train", MODEL, *QUICK, "--data", "folder:."],
        "no class folders in '.': expected PATH/train",
    ),
    "no ratio": (["train", MODEL, *QUICK, "--ratio", "1"], "ratio"),
    "ratio leaves no pixels": (["train", MODEL, *QUICK, "--ratio", "64"], "64"),
    "no match": (["train", MODEL, *QUICK, "--pool-convs", "layer9*"], "layer9*"),
    "few outputs": (["train", "training:model_without_options", *QUICK], "but digits has 10 classes"),
    "list too short": (["train", MODEL, *QUICK, "--p", "0.5,0.5,0"], "--p gives 3 values for 2 epochs"),
    "no list": (["train", MODEL, *QUICK, "--p", "often"], "--p 'often' is no list of numbers"),
    "p out of range": (["train", MODEL, *QUICK, "--p", "1.5"], "1.5"),
    "milestones": (["train", MODEL, *QUICK, "--milestones", "one"], "--milestones 'one' is no list of epochs"),
    "epochs": (["train", MODEL, *QUICK, "--epochs", "0"], "--epochs 0 is too small; give an int of at least 1"),
    "clipping": (
        ["train", MODEL, *QUICK, "--clip-grad-norm", "0"],
        "--clip-grad-norm 0.0 is out of range; give a number above 0",
    ),
    "rate": (["train", MODEL, *QUICK, "--lr", "-1"], "--lr -1.0 is out of range; give a number above 0"),
    "batch": (
        ["train", MODEL, *QUICK, "--batch-size", "9999"],
        "--batch-size 9999 is more than the 1437 training images; give a smaller one",
    ),
    "preset": (["train", MODEL, *QUICK, "--preset", "mine"], "--preset: 'mine' is not one of 'paper'; see --help"),
    "schedule": (
        ["train", MODEL, *QUICK, "--schedule", "daily"],
        "--schedule: 'daily' is not one of 'bernoulli', 'p",
    ),
    "ladder": (["train", MODEL, *QUICK, "--ladder", "2x1,3x1"], "--ladder 2x1,3x1 is not in order"),
    "ladder and ratio": (
        ["train", MODEL, *QUICK, "--ladder", "3x1,1x1", "--ratio", "2"],
        "--ratio 2 and --ladder 3x1,1x1",
    ),
    "ladder and epochs": (["train", MODEL, *QUICK, "--ladder", "3x1,1x2"], "--epochs 2 is not what --ladder 3x1,1x2"),
    "ladder and tuned": (
        ["train", MODEL, *QUICK, "--ladder", "3x1,1x1", "--tuned", "tuned.json"],
        "--tuned 'tuned.json' holds its own low modes; leave it out, or --ladder 3x1,1x1",
    ),
    "ladder leaves no pixels": (["train", MODEL, *QUICK, "--ladder", "64x1,2x1,1x0"], "64"),
    "shares": (["train", MODEL, *QUICK, "--shares", "0.5,0.6"], "sums to 1.1; give values that sum to 1"),
    "p of a period": (
        ["train", MODEL, *QUICK, "--schedule", "periodic", "--p", "0.5"],
        "has no meaning for --schedule",
    ),
    "device": (
        ["train", MODEL, *QUICK, "--device", "toaster"],
        "--device 'toaster' is not there; give auto, cpu or a GPU",
    ),
    "nothing to pool": (["train", "vit_tiny_patch16_224", *DRAWN, "--image-size", "32"], "nothing to pool"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(run: Run, mistake: str, tmp_path: Path) -> None:
    arguments, message = MISTAKES[mistake]
    outcome = run(*arguments)
    assert outcome.status == 2, outcome.out + outcome.error
    lines = outcome.error.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "runs").exists(), "a command that fails leaves nothing behind"


def test_a_corrupt_image_is_one_line(run: Run, tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"cat": 3, "dog": 3})
    write_images(tmp_path / "test", {"cat": 1, "dog": 1})
    (tmp_path / "train/dog/001.png").write_bytes(b"no image")
    outcome = run("train", MODEL, *QUICK, "--data", f"folder:{tmp_path}", "--batch-size", "2")
    stage, error = outcome.error.splitlines()
    assert outcome.status == 2 and stage == "decoding train images …"
    assert error.startswith(f"error: cannot decode image '{tmp_path}/train/dog/001.png'")


def test_an_existing_run_is_left_alone(run: Run, finished: Path) -> None:
    before = (finished / "summary.json").read_text()
    for options, message in (
        ([], "exists; give --resume, --overwrite or another --out"),
        (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
        (["--resume"], "--pool-convs is 'dense', the run there has 'all'; give the same again"),
        (["--resume", "--pool-convs", "all", "--warmup-epochs", "1"], "--warmup-epochs is 1, the run there has 0"),
        (["--overwrite", "--data", "mnist"], "--data 'mnist' is unknown"),
        (["--overwrite", "--ratio", "64"], "64"),
    ):
        outcome = run("train", MODEL, *DRAWN, "--out", str(finished), *options)
        assert outcome.status == 2 and len(outcome.error.splitlines()) == 1 and message in outcome.error, outcome
    assert (finished / "summary.json").read_text() == before and (finished / "checkpoint/state.pt").exists()


def test_options_win_over_the_preset() -> None:
    assert run_settings("paper", late_full=False) == TrainSettings.paper()
    changed = run_settings("paper", late_full=True, epochs=10, milestones=(5,), lr=None)
    assert (changed.epochs, changed.milestones, changed.lr) == (10, (5,), 0.1)
    rest: dict[str, Any] = {"tail": None, "period": 2, "every": 500, "paper": True}
    schedule = make_schedule("bernoulli", TrainSettings.paper(), None, p=None, hold_epochs=None, **rest)
    assert isinstance(schedule, BernoulliSchedule)
    assert schedule.hold_epochs == 4 and tuple(schedule.milestones) == (0, 80, 120)
    held = make_schedule("bernoulli", changed, None, p="0.25", hold_epochs=1, **rest)
    assert isinstance(held, BernoulliSchedule) and held.hold_epochs == 1


def test_without_a_preset_the_rate_falls_where_the_papers_does() -> None:
    assert run_settings("", late_full=False, epochs=200).milestones == (80, 120)
    assert run_settings("", late_full=False, epochs=1).milestones == ()
    assert run_settings("", late_full=False, epochs=10, lr_schedule="cosine").milestones == ()


def test_full_epochs_at_the_end_have_a_rate_to_learn_with() -> None:
    chosen = run_settings("", late_full=True, epochs=200)
    assert (chosen.lr_schedule, chosen.lr_over) == ("cosine", "macs")
    assert run_settings("", late_full=True, lr_schedule="onecycle").lr_over == "macs"
    assert run_settings("", late_full=True, lr_over="steps").lr_over == "steps"
    for late_full, planned, kind in ((False, True, "cosine"), (True, False, "cosine"), (True, True, "plateau")):
        assert run_settings("", late_full=late_full, planned=planned, lr_schedule=kind).lr_over == "steps"
    assert run_settings("", late_full=True, epochs=200, lr_schedule="milestones").milestones == (80, 120)
    assert run_settings("", late_full=True, epochs=200, milestones=(150,)).lr_schedule == "milestones"


@pytest.mark.parametrize(
    ("kind", "p", "tail", "full"),
    [
        ("bernoulli", None, None, False),
        ("bernoulli", "0.5", None, False),
        ("bernoulli", "0", None, False),  # no low step: nothing comes before the full ones
        ("bernoulli", "0x3", None, False),
        ("bernoulli", "0.8x8,0.1", None, False),
        ("bernoulli", "0.8x8,0", None, True),
        ("bernoulli", "0.8, 0.5,0.0x2", None, True),
        ("bernoulli", "0.8,", None, False),
        ("bernoulli", "0.8", 0.2, True),
        ("bernoulli", "0.8", 0.0, False),
        ("agreement", None, 0.5, True),
        ("ladder", None, None, True),
    ],
)
def test_where_full_epochs_come_last(kind: str, p: str | None, tail: float | None, full: bool) -> None:
    assert ends_full(kind, p, tail) is full


def test_a_list_of_p_that_ends_in_0_gets_a_cosine_over_macs(run: Run, tmp_path: Path) -> None:
    for options, rate, over in (
        (("--p", "1,0"), "cosine", "macs"),
        (("--p", "1,0", "--lr-over", "steps"), "cosine", "steps"),
        (("--p", "0,1"), "milestones", "steps"),
    ):
        assert run("train", MODEL, *QUICK, "--epochs", "2", *options, "--overwrite").status == 0
        summary = json.loads((tmp_path / "runs/training-tiny_model-digits/summary.json").read_text())
        assert (summary["settings"]["lr_schedule"], summary["settings"]["lr_over"]) == (rate, over)


def test_rates_over_macs_need_modes_that_are_known(run: Run) -> None:
    falling = run("train", MODEL, *DRAWN, "--lr-over", "macs")
    assert falling.status == 2 and "--lr-over 'macs' needs a rate over the whole run" in falling.error
    cosine = (*QUICK, "--lr-schedule", "cosine", "--lr-over", "macs")
    told = run("train", MODEL, *cosine, "--schedule", "agreement", "--measure-every", "80")
    assert told.status == 2 and "'macs' needs modes before --schedule agreement decides them; give steps" in told.error
    assert "note: --lr-over macs does nothing here" in run("train", MODEL, *cosine, "--full-only").out


def test_shares_of_low_steps() -> None:
    assert low_shares("0.5", 3) == 0.5
    assert low_shares("0.8, 0.5,0", 3) == [0.8, 0.5, 0.0]
    assert low_shares("0.8x2,0x3", 5) == [0.8, 0.8, 0.0, 0.0, 0.0]


def test_what_a_run_can_not_do_well_is_reported(run: Run) -> None:
    said = run(
        "train", MODEL, *QUICK, "--milestones", "1,80", "--p", "1", "--hold-epochs", "0", "--precise-bn", "0"
    ).out
    assert "warning: the rate's falls at 80 lie beyond the run's 2 epochs" in said
    assert (
        "note: running statistics lag behind the last epoch's low steps; give --tail 0.2, or leave out --prec" in said
    )
    quiet = run("train", MODEL, *QUICK, "--tail", "0.5", "--out", "quiet").out
    assert "warning" not in quiet and "lag behind" not in quiet
    until = "whose norms only full steps adapt: its accuracy says little before epoch 2"
    assert until not in said and until not in quiet  # low steps alone; some steps of each kind from the start
    assert until in run("train", MODEL, *QUICK, "--p", "1", "--tail", "0.5", "--out", "tail").out
    shared = run("train", MODEL, *QUICK, "--p", "1", "--tail", "0.5", "--batchnorm", "share", "--out", "shared")
    assert shared.status == 0 and until not in shared.out


def test_a_missing_option_is_one_line_with_the_way_out(run: Run) -> None:
    outcome = run("train", MODEL)
    assert (outcome.status, outcome.error) == (
        2,
        "error: Missing option '--data'; give digits, folder:PATH or another, see --help\n",
    )


def test_half_precision_on_a_cpu_is_warned_of(run: Run) -> None:
    said = " ".join(run("train", MODEL, *QUICK, "--epochs", "1", "--autocast", "fp16", "--out", "run").out.split())
    assert "warning: fp16 is slow on a CPU; give --autocast bf16" in said
