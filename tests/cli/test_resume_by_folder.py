"""``train --resume RUN``: a run goes on with the options that it was started with, and with no others."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Outcome, Run
from safetensors.torch import load_file

from lowmode_fx import BernoulliSchedule, LadderSchedule, LowModeConfig, Tuning
from lowmode_fx.cli.run_options import read_options, stored_options
from lowmode_fx.train.progress import Reporter

MODEL = "training:tiny_model"
#: An option of each kind: text, a number, a switch, a choice and a list; none of them a default.
OPTIONS = (
    *("--data", "digits", "--image-size", "8", "--in-chans", "1", "--epochs", "2", "--milestones", "1"),
    *("--pool-convs", "all", "--p", "0.7", "--low-weight", "0.5", "--lr", "0.07", "--nesterov", "--seed", "3"),
    *("--no-compile", "--device", "cpu"),
)


def interrupted(run: Run, out: str, *options: str) -> Outcome:
    """A run that a signal ends in its first epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reporter, "step", lambda self, epoch, step: step == 4 and signal.raise_signal(signal.SIGTERM))
        outcome = run("train", MODEL, *OPTIONS, *options, "--out", out)
    assert outcome.status == 128 + signal.SIGTERM, outcome.error
    return outcome


def refused(outcome: Outcome) -> str:
    assert outcome.status == 2, outcome
    (line,) = outcome.error.splitlines()
    return line


def summary(folder: str) -> dict[str, Any]:
    return dict(json.loads(Path(folder, "summary.json").read_text()))


@pytest.mark.parametrize("more", [(), ("--full-only",)], ids=["low-mode", "full-mode"])
def test_the_folder_alone_leads_to_the_whole_runs_bits(run: Run, more: tuple[str, ...]) -> None:
    assert run("train", MODEL, *OPTIONS, *more, "--out", "whole").status == 0
    said = interrupted(run, "cut", *more).out.splitlines()[-1]
    assert said == "interrupted by SIGTERM; lowmode-fx train --resume cut goes on"
    assert summary("cut")["options"] == summary("whole")["options"]
    resumed = run("train", "--resume", "cut")
    assert resumed.status == 0 and "going on from epoch 1, step 5 (cut/checkpoint)" in resumed.out, resumed.error
    whole, cut = (load_file(f"{name}/checkpoint/model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    rows = [Path(name, "metrics.csv").read_text().splitlines() for name in ("whole", "cut")]
    assert [line.split(",")[4:] for line in rows[0]] == [line.split(",")[4:] for line in rows[1]]
    assert summary("cut")["status"] == "complete" and summary("cut")["options"] == summary("whole")["options"]


def test_what_is_given_changes_what_may_change_and_nothing_else(run: Run) -> None:
    assert run("train", MODEL, *OPTIONS, "--out", "run").status == 0
    before = Path("run/summary.json").read_text()
    for option, value, message in (
        ("--lr", "0.1", "--lr is 0.1, the run there has 0.07"),
        ("--p", "0.5", "--p is 0.5, the run there has 0.7"),
        ("--in-chans", "3", "data.image_shape is [3, 8, 8], the run there has [1, 8, 8]"),
        ("--kernel-ratio", "1", "--kernel-ratio"),
    ):
        told = refused(run("train", "--resume", "run", option, value))
        assert message in told and told.endswith("; give the same again, or --overwrite or another --out"), told
    assert Path("run/summary.json").read_text() == before
    longer = run("train", "run/", "--resume", "--epochs", "3", "--workers", "1")
    assert longer.status == 0 and "going on from epoch 3, step 0" in longer.out, longer.error
    assert len(Path("run/metrics.csv").read_text().splitlines()) == 4
    options = summary("run")["options"]
    assert (options["epochs"], options["workers"], options["lr"], options["compile"]) == (3, 1, 0.07, False)


def test_a_plain_name_with_data_is_a_model(run: Run) -> None:
    """As before: the folder of another run, of this name, has no say in it. A name that is no model's is a folder."""
    interrupted(run, "resnet10t")
    shutil.copytree("resnet10t", "mine")
    odd = ("--resume", "--data", "digits", "--shares", "0.5,0.6")  # at odds with a stored --p, and in themselves
    assert "sums to 1.1" in refused(run("train", "resnet10t", *odd))
    for folder in ("mine", "./resnet10t"):
        assert "--p 0.7 has no meaning for --schedule ladder" in refused(run("train", folder, *odd))
    moved = run("train", "mine", "--resume", "--data", "digits")
    assert moved.status == 0 and "going on from epoch 1, step 5 (mine/checkpoint)" in moved.out, moved.error


def test_the_options_are_plain_values_and_read_back_as_they_were(tmp_path: Path) -> None:
    given = {"model": "net", "data": "digits", "lr": 0.1, "compile": False, "tuned": Path("a/b.json"), "p": None}
    stored = stored_options({**given, "out": Path("run"), "resume": True, "overwrite": False})
    (tmp_path / "summary.json").write_text(json.dumps({"options": stored}))
    assert stored["tuned"] == "a/b.json"
    assert read_options(tmp_path, given) == {name: value for name, value in given.items() if name != "p"}


def test_a_run_without_options_asks_for_them(run: Run) -> None:
    interrupted(run, "run")
    path = Path("run/summary.json")
    start = "error: run folder 'run' "
    again = "; give all of its options again: lowmode-fx train MODEL --data DATA ... --resume --out run"
    for options, message in (
        (None, f"{start}doesn't hold the options of its run, which is of an older version{again}"),
        ({"model": MODEL}, f"{start}holds options of its run that this version doesn't know{again}"),
        ({"model": MODEL, "data": "digits", "colour": 1}, f"{start}holds options of its run that this version doesn't"),
        ({"model": MODEL, "data": ["digits"]}, f"{start}holds options of its run that this version doesn't know"),
        ("all", f"{start}holds options of its run that this version doesn't know"),
    ):
        changed = {name: value for name, value in summary("run").items() if name != "options"}
        path.write_text(json.dumps({**changed, **({} if options is None else {"options": options})}))
        assert refused(run("train", "--resume", "run")).startswith(message)
    path.write_text("{")
    assert "error: 'run/summary.json' can't be read (" in refused(run("train", "--resume", "run"))
    resumed = run("train", MODEL, *OPTIONS, "--resume", "--out", "run")
    assert resumed.status == 0 and "going on from epoch 1, step 5" in resumed.out


def test_no_run_is_one_line(run: Run) -> None:
    Path("empty").mkdir()
    Path("file").touch()
    what = "; give the folder of a run, or a model and --data"
    assert refused(run("train", "--resume", "resnet18")) == f"error: run folder 'resnet18' does not exist{what}"
    assert refused(run("train", "--resume", "file")) == f"error: run folder 'file' is a file{what}"
    assert "run folder 'empty' holds no run: it has no summary.json; give another" in refused(
        run("train", "--resume", "empty")
    )
    folder = "error: --resume takes the run's folder where no model is given; give lowmode-fx train --resume"
    assert refused(run("train", "--resume")) == f"{folder} RUN"
    assert refused(run("train", "--resume", "--out", "runs/a")) == f"{folder} runs/a"
    model = "error: Missing argument 'model'; give a timm name, torchvision:NAME or package.module:callable"
    assert refused(run("train")) == refused(run("train", "--data", "digits")) == model
    assert (
        refused(run("train", "empty"))
        == "error: Missing option '--data'; give digits, folder:PATH or another, see --help"
    )
    told = refused(run("train", "--resume", "empty", "--out", "other"))
    assert told == "error: --out 'other' is not the run to resume, 'empty'; leave it out"


def test_paths_of_the_options_are_those_of_the_folder_that_the_run_was_started_in(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = Tuning(LowModeConfig(kernel_ratio=1), BernoulliSchedule([1.0, 0.0], 0), 1.0, 2, 0.5)
    Path("plan.json").write_text(tuning.to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reporter, "step", lambda self, epoch, step: step == 4 and signal.raise_signal(signal.SIGTERM))
        options = ("--data", "digits", "--image-size", "8", "--tuned", "plan.json", "--no-compile", "--device", "cpu")
        assert run("train", MODEL, *options, "--out", "cut").status == 128 + signal.SIGTERM
    here = Path.cwd()
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    resumed = run("train", "--resume", "../cut")
    assert resumed.status == 0, resumed.error
    assert summary(str(here / "cut"))["status"] == "complete" and Path.cwd() == here
    assert not (here / "elsewhere/cut").exists()


def test_a_folder_that_is_gone_is_told(run: Run) -> None:
    interrupted(run, "cut")
    path = Path("cut/summary.json")
    path.write_text(path.read_text().replace(str(Path.cwd()), "/nowhere/at/all"))
    told = refused(run("train", "--resume", "cut"))
    assert "was started in '/nowhere/at/all', which is gone (No such file or directory)" in told


PLAN = Tuning(LowModeConfig(pool_convs="all"), BernoulliSchedule([1.0, 0.0], 0), 0.5, 2, 0.5)
QUICK = ("--data", "digits", "--image-size", "8", "--no-compile", "--device", "cpu")


@pytest.fixture
def planned(run: Run) -> Run:
    """A run by ``plan.json`` that was ended in its first epoch, in ``cut``, and the whole one in ``whole``."""
    Path("plan.json").write_text(PLAN.to_json())
    assert run("train", MODEL, *QUICK, "--tuned", "plan.json", "--out", "whole").status == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reporter, "step", lambda self, epoch, step: step == 4 and signal.raise_signal(signal.SIGTERM))
        assert run("train", MODEL, *QUICK, "--tuned", "plan.json", "--out", "cut").status == 128 + signal.SIGTERM
    return run


@pytest.mark.parametrize("now", ["another plan", "no plan", "gone", "the same"])
def test_a_run_goes_on_with_the_plan_that_it_began_with(planned: Run, now: str) -> None:
    note = {
        "another plan": "note: plan.json has changed since the run began (schedule.p was [1.0, 0.0], and is [1.0, 1.0, "
        "0.0]): the run goes",
        "no plan": "note: plan.json is no plan any more: the run goes",
    }.get(now)
    path = Path("plan.json")
    if now == "another plan":
        path.write_text(replace(PLAN, low_weight=1.0, epochs=3, schedule=BernoulliSchedule([1.0, 1.0, 0.0])).to_json())
    elif now == "no plan":
        path.write_text("{}")
    elif now == "gone":
        path.unlink()
    resumed = planned("train", "--resume", "cut")
    assert resumed.status == 0, resumed.error
    said = [line for line in resumed.out.splitlines() if "plan.json" in line and "older version" not in line]
    assert [line.startswith(note or "") for line in said] == [True] * (note is not None)
    whole, cut = (load_file(f"{name}/checkpoint/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert summary("cut")["options"] == summary("whole")["options"]


def test_another_plan_than_the_runs_is_told_as_one(planned: Run) -> None:
    """Of what the plan says alone: an option of the user's own is told by its name, as ever."""
    Path("plan.json").write_text(replace(PLAN, low_weight=1.0).to_json())
    Path("modes.json").write_text(replace(PLAN, schedule=LadderSchedule((1, 1, 0)), more=(LowModeConfig(),)).to_json())
    before = summary("cut")
    start, again = (
        "error: --tuned 'plan.json' is not the plan that run 'cut' began with",
        "or give --overwrite or another --out",
    )
    own = "leave --tuned out, as in lowmode-fx train --resume cut: the run goes on with its own, "
    differing = "--low-weight is 1.0, the run there has 0.5"
    whole = ("train", MODEL, *QUICK, "--resume", "--out", "cut")
    for command in (("train", "--resume", "cut"), whole):
        told = refused(planned(*command, "--tuned", "plan.json"))
        assert told == f"{start} ({differing}); {own}{again}"
    modes = refused(planned("train", "--resume", "cut", "--tuned", "modes.json"))
    assert "'modes.json' is not the plan that run 'cut' began with (its modes would be r = 2 for 1 epoch" in modes
    mine = refused(planned(*whole, "--tuned", "plan.json", "--low-weight", "0.7"))
    assert mine.startswith("error: cannot resume 'cut': --low-weight is 0.7, the run there has 0.5; give the same")
    rate = refused(planned(*whole, "--tuned", "plan.json", "--low-weight", "0.5", "--lr", "0.2"))
    assert "--lr is 0.2, the run there has 0.1; give the same" in rate
    assert summary("cut") == before
    del before["options"]["tuned_plan"]  # as older versions left it
    Path("cut/summary.json").write_text(json.dumps(before))
    older = refused(planned("train", "--resume", "cut"))
    assert older == f"{start} ({differing}); give the plan as it was, {again}"


def test_a_plan_that_was_edited_is_asked_for(planned: Run) -> None:
    changed = summary("cut")
    changed["options"]["tuned_plan"] = {"config": 3}
    Path("cut/summary.json").write_text(json.dumps(changed))
    told = refused(planned("train", "--resume", "cut"))
    assert told.startswith("error: --tuned 'plan.json' is not a result of `lowmode-fx tune`")
    assert planned("train", "--resume", "cut", "--tuned", "plan.json").status == 0
