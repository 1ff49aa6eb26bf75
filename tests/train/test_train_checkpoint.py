"""Checkpoints: whole or not at all, named when they don't fit, and a resumed run that is the uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training import digits, quick_run, quick_settings, tiny_ladder_net, tiny_model, tiny_net

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.schedules import BernoulliSchedule, LadderSchedule
from lowmode_fx.train import (
    CheckpointError,
    RunFolder,
    RunResult,
    TrainSettings,
    load_checkpoint,
    save_checkpoint,
    train,
)
from lowmode_fx.train import checkpoint as checkpoint_module
from lowmode_fx.train.checkpoint import has_checkpoint, load_weights, rng_state, set_rng_state
from lowmode_fx.train.progress import Reporter
from lowmode_fx.utils.atomic import write_text


def save(folder: Path, number: int) -> None:
    save_checkpoint(
        folder, {"weight": torch.full((50, 50), float(number))}, {"number": number, "more": torch.zeros(50, 50)}
    )


def loaded_number(folder: Path) -> int:
    """The number of the checkpoint that is loaded, after a check that both its files are of that one."""
    checkpoint = load_checkpoint(folder)
    assert bool((checkpoint.weights["weight"] == checkpoint.state["number"]).all())
    return int(checkpoint.state["number"])


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, number: signal.Signals = signal.SIGTERM) -> None:
    """The signal arrives in the midst of the run, after so many steps."""
    count = 0

    def step(self: Reporter, epoch: int, step_in_epoch: int) -> None:
        nonlocal count
        count += 1
        if count == steps:
            signal.raise_signal(number)

    monkeypatch.setattr(Reporter, "step", step)


def final_state(folder: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(folder)
    return {**checkpoint.weights, **checkpoint.state}


def assert_equal(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            if not str(key).endswith("seconds"):
                assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for number, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_equal(a, b, f"{where}.{number}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def interrupted_run(settings: TrainSettings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunResult:
    """A run that is interrupted and goes on with other weights at first: it ends with the bits of a straight one."""
    quick_run(settings, folder / "straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 16)
        quick_run(settings, folder / "run")
    _, result = quick_run(settings, folder / "run", resume=True, net=tiny_net(seed=7))
    assert_equal(final_state(folder / "straight"), final_state(folder / "run"))
    return result


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that nothing interrupts."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    quick_run(folder=folder)
    return folder


def test_one_epoch_and_resume_is_three_epochs_straight(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    quick_run(quick_settings(epochs=1), folder=folder)
    _, result = quick_run(folder=folder, resume=True, net=tiny_net(seed=7))  # its weights come from the checkpoint
    assert [record.epoch for record in result.records] == [0, 1, 2]
    assert_equal(final_state(straight), final_state(folder))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_resume_goes_on_to_the_same_bits(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_after(patch, 16, number)  # in the midst of the second epoch of 11 steps
        _, result = quick_run(folder=folder)
    assert result.interrupted == number and len(result.records) == 1
    assert signal.getsignal(number) is handler
    state = load_checkpoint(folder).state
    assert (state["epoch"], state["step"]) == (1, 5)
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    quick_run(folder=folder, resume=True, net=tiny_net(seed=7))
    assert_equal(final_state(straight), final_state(folder))
    assert json.loads((folder / "summary.json").read_text())["status"] == "complete"


def ladder_net(seed: int = 0) -> LowModeModel:
    """Each of its three modes in one epoch, and in the midst of one; low steps of one mode weigh less."""
    schedule = LadderSchedule(probabilities=[(0.6, 0.3, 0.1), (0.1, 0.6, 0.3), (0, 0, 1)], seed=2)
    ladder = tiny_ladder_net(seed=seed).ladder
    return LowModeModel(ladder, schedule, low_weight={"r4": 0.5}, compile=False)


def test_a_run_of_several_modes_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, folder = tmp_path / "straight", tmp_path / "run"
    quick_run(folder=straight, net=ladder_net())
    with monkeypatch.context() as patch:
        stop_after(patch, 16)
        quick_run(folder=folder, net=ladder_net())
    assert sum(load_checkpoint(folder).state["mode_steps"].values()) == 5
    _, result = quick_run(folder=folder, resume=True, net=ladder_net(seed=7))
    assert_equal(final_state(straight), final_state(folder))
    assert all(sum(record.steps.values()) == 11 for record in result.records)
    said = json.loads((folder / "summary.json").read_text())
    assert list(said["low_mode"]["configs"]) == ["r4", "r2"] and said["low_mode"]["low_weight"] == {"r4": 0.5}
    assert [config["ratio"] for config in said["low_mode"]["configs"].values()] == [4, 2]
    assert said["results"]["steps"] == result.steps and min(result.steps.values()) > 0
    with pytest.raises(CheckpointError, match=r"low_weight is 1.0, the run there has \{'r4': 0\.5\}"):
        quick_run(folder=folder, resume=True, net=LowModeModel(ladder_net().ladder, ladder_net().schedule))


def test_a_run_whose_batches_grow_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the midst of an epoch, whose steps have taken different numbers of images by then."""
    rows = [(0.4, 0.4, 0.2)]
    schedule = LadderSchedule(probabilities=rows, seed=2)

    def net(seed: int = 0, multiplier: Any = "pixels") -> LowModeModel:
        made = tiny_ladder_net(seed=seed)
        return LowModeModel(made.ladder, schedule, batch_multiplier=multiplier, compile=False)

    settings = quick_settings(batch_size=20, lr=0.02, lr_schedule="cosine", warmup_epochs=1)
    straight, folder = tmp_path / "straight", tmp_path / "run"
    _, result = quick_run(settings, straight, net())
    with monkeypatch.context() as patch:
        stop_after(patch, 12)
        _, first = quick_run(settings, folder, net())
    state = load_checkpoint(folder).state
    assert first.interrupted and state["step"] and state["taken"] > 20 * state["step"]
    quick_run(settings, folder, net(seed=7), resume=True)
    assert_equal(final_state(straight), final_state(folder))
    whole = len(digits().train) // 20
    for record in result.records:
        images = sum(net().batch_size_in(Mode(mode), 20) * steps for mode, steps in record.steps.items())
        assert (whole - 16) * 20 < images <= whole * 20 and sum(record.steps.values()) < whole
    assert final_state(folder)["learning_rate"]["scheduler"]["last_epoch"] == 3 * whole
    with pytest.raises(CheckpointError, match="batch_multiplier is 4, the run there has 'pixels'"):
        quick_run(settings, folder, net(multiplier=4), resume=True)


def as_version_1(folder: Path) -> None:
    """Write the folder's checkpoint as it was written when a run had two modes at most."""
    path = folder / "checkpoint/state.pt"
    state = torch.load(path, weights_only=True)
    state["version"] = 1
    state["low_steps"] = state.pop("mode_steps").get("low", 0)
    for record in state["records"]:
        steps = record.pop("steps")
        record |= {"low_steps": steps.get("low", 0), "full_steps": steps["full"]}
    torch.save(state, path)


@pytest.mark.parametrize("make", [tiny_net, tiny_model])
def test_a_checkpoint_of_two_modes_from_before_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., nn.Module]
) -> None:
    straight, folder = tmp_path / "straight", tmp_path / "run"
    _, expected = quick_run(folder=straight, net=make())
    with monkeypatch.context() as patch:
        stop_after(patch, 16)
        quick_run(folder=folder, net=make())
    as_version_1(folder)
    _, result = quick_run(folder=folder, resume=True, net=make(seed=7))
    for name, value in load_checkpoint(straight).weights.items():
        assert torch.equal(value, load_checkpoint(folder).weights[name]), name
    counts = [(record.low_steps, record.full_steps) for record in result.records]
    assert counts == [(record.low_steps, record.full_steps) for record in expected.records]
    assert result.train_seconds > 0 and len(counts) == 3


@pytest.mark.parametrize("older", [True, False])
def test_a_run_that_began_under_other_draws_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], older: bool
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 16)
        quick_run(folder=folder)
    if older:
        path = folder / "checkpoint/state.pt"
        state = torch.load(path, weights_only=True)
        del state["draws"]
        torch.save(state, path)
    train(tiny_net(), digits(), quick_settings(), RunFolder.open(folder, resume=True), resume=True)
    said = "the run began under another version's draws: its coming crops and flips are others"
    assert (said in capsys.readouterr().out) is older


def test_resuming_from_another_place_in_the_generators(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    quick_run(quick_settings(epochs=2), folder=folder)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    quick_run(folder=folder, resume=True)
    assert_equal(final_state(straight), final_state(folder))


def test_a_finished_run_that_is_resumed_stays_as_it_is(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    _, result = quick_run(folder=folder, resume=True)
    assert len(result.records) == 3 and not result.interrupted
    assert_equal(final_state(straight), final_state(folder))


def test_the_run_folder_holds_what_it_should(straight: Path) -> None:
    names = {path.name for path in straight.iterdir()}
    kept = {"metrics.csv", "summary.json", "curves.png", "checkpoint", "checkpoint.previous", ".lock"}
    assert kept <= names <= {*kept, "tensorboard"}
    assert {path.name for path in (straight / "checkpoint").iterdir()} == {"model.safetensors", "state.pt"}
    lines = (straight / "metrics.csv").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("run,epoch,seconds,") and lines[1].startswith("low-mode,0,")
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["status"] == "complete" and summary["settings"]["batch_size"] == 125
    assert summary["low_mode"]["schedule"]["kind"] == "bernoulli" and summary["low_mode"]["config"]["ratio"] == 2
    assert summary["versions"]["torch"] and summary["hardware"]["torch_threads"] >= 1
    assert summary["results"]["epochs"] == 3 and summary["data"]["spec"] == "digits"


def test_the_saved_model_is_the_original_models_own(straight: Path) -> None:
    tiny_model().load_state_dict(load_file(straight / "checkpoint/model.safetensors"), strict=True)


def test_the_state_loads_with_weights_only(straight: Path) -> None:
    state = torch.load(straight / "checkpoint/state.pt", weights_only=True)
    assert state["format"] == "lowmode_fx.checkpoint" and state["epoch"] == 3


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(tmp_path, number)
    assert loaded_number(tmp_path) == 3
    shutil.rmtree(tmp_path / "checkpoint")
    assert loaded_number(tmp_path) == 2 and has_checkpoint(tmp_path)


def kill_in(folder: Path, patch: Callable[[Callable[[], None]], None]) -> None:
    """Save number 3 in a child process that dies, as by SIGKILL, where ``patch`` puts the call that it is handed."""
    child = os.fork()
    if not child:
        patch(lambda: os._exit(9))
        save(folder, 3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def before_call(owner: Any, name: str, count: int) -> Callable[[Callable[[], None]], None]:
    def patch(die: Callable[[], None]) -> None:
        original, calls = getattr(owner, name), 0

        def replacement(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count:
                die()
            return original(*arguments, **keywords)

        setattr(owner, name, replacement)

    return patch


@pytest.mark.parametrize(
    ("owner", "name", "count", "loaded"),
    [
        (checkpoint_module, "_remove", 1, 2),  # nothing written yet
        (checkpoint_module, "_write_weights", 1, 2),
        (torch, "save", 1, 2),  # weights written, state not
        (checkpoint_module, "sync_file", 1, 2),
        (checkpoint_module, "_remove", 2, 2),  # all written, nothing renamed
        (Path, "rename", 1, 2),  # the previous one removed
        (Path, "rename", 2, 3),  # the current one renamed away: the new one is whole, in its temporary place
        (checkpoint_module, "sync_folder", 2, 3),
    ],
)
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(
    tmp_path: Path, owner: Any, name: str, count: int, loaded: int
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    kill_in(tmp_path, before_call(owner, name, count))
    assert has_checkpoint(tmp_path) and loaded_number(tmp_path) == loaded
    save(tmp_path, 4)
    assert loaded_number(tmp_path) == 4 and not (tmp_path / "checkpoint.partial").exists()


def test_a_full_disk_is_named_and_the_last_one_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full_disk(*arguments: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file:\nNo space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match=r"cannot write checkpoint .*: PytorchStreamWriter .*: No space left on device$"):
        save(tmp_path, 2)
    assert loaded_number(tmp_path) == 1 and not (tmp_path / "checkpoint.partial").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_damage_is_named_and_the_one_before_is_taken(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=rf"checkpoint/{name}.*; no whole checkpoint is left"):
        damage(tmp_path / "checkpoint" / name)
        load_checkpoint(tmp_path)
    save(tmp_path, 2)  # the damaged one becomes the previous one
    assert loaded_number(tmp_path) == 2
    save(tmp_path, 3)
    damage(tmp_path / "checkpoint" / name)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.state["number"] == 2 and checkpoint.folder.name == "checkpoint.previous"
    assert len(checkpoint.damage) == 1 and f"checkpoint/{name}" in checkpoint.damage[0]


def test_resuming_says_that_a_checkpoint_was_damaged(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    truncate(folder / "checkpoint/model.safetensors")
    train(tiny_net(), digits(), quick_settings(), RunFolder.open(folder, resume=True), resume=True)
    output = capsys.readouterr().out
    assert "model.safetensors' is truncated, damaged or from another checkpoint; going on from" in output
    assert "going on from epoch 3, step 0" in output
    assert_equal(final_state(straight), final_state(folder))


def test_files_of_two_checkpoints_do_not_mix(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    shutil.copy(tmp_path / "checkpoint.previous/state.pt", tmp_path / "checkpoint/state.pt")
    shutil.rmtree(tmp_path / "checkpoint.previous")
    with pytest.raises(CheckpointError, match="is truncated, damaged or from another checkpoint"):
        load_checkpoint(tmp_path)


def test_a_foreign_state_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1)
    torch.save({"epoch": 3}, tmp_path / "checkpoint/state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt' was written by another program"):
        load_checkpoint(tmp_path)
    torch.save({"format": "lowmode_fx.checkpoint", "version": 99}, tmp_path / "checkpoint/state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt' has version 99; readable are 1, 2;"):
        load_checkpoint(tmp_path)
    torch.save({"module": nn.Linear(1, 1)}, tmp_path / "checkpoint/state.pt")  # a pickle of code is never run
    with pytest.raises(CheckpointError, match=r"state\.pt' is truncated or damaged"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1)
    checkpoint = load_checkpoint(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"is of another model: it lacks '0\.weight'; give the model that wrote it, or "
    ):
        load_weights(tiny_model(), checkpoint)
    with pytest.raises(
        CheckpointError, match=r"of another model: shape of 'weight' is \(50, 50\), the model's is \(2, 3\)"
    ):
        load_weights(nn.Linear(3, 2, bias=False), checkpoint)


@pytest.mark.parametrize(
    ("settings", "net", "message"),
    [
        ({"lr": 0.2}, {}, r"lr is 0\.2, the run there has 0\.1"),
        ({"seed": 3}, {}, r"seed is 3, the run there has 0"),
        ({"clip_grad_norm": 1}, {}, r"clip_grad_norm is 1\.0, the run there has None"),
        ({}, {"schedule": BernoulliSchedule(p=0.25)}, r"p is 0\.25, the run there has 0\.5"),
    ],
)
def test_other_settings_are_refused(
    straight: Path, tmp_path: Path, settings: dict[str, Any], net: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    with pytest.raises(CheckpointError, match=rf"cannot resume '.*run': {message}; give the same again"):
        quick_run(quick_settings(**settings), folder=folder, resume=True, net=tiny_net(**net))
    assert_equal(final_state(straight), final_state(folder))


def test_more_epochs_are_allowed_unless_the_rate_depends_on_them(tmp_path: Path) -> None:
    cosine = {"lr_schedule": "cosine", "milestones": ()}
    quick_run(quick_settings(epochs=1, **cosine), folder=tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"epochs is 2, the run there has 1"):
        quick_run(quick_settings(epochs=2, **cosine), folder=tmp_path / "run", resume=True)


def test_generators_come_back() -> None:
    state = rng_state()
    draws = [(torch.rand(1).item(), np.random.rand(), random.random()) for _ in range(2)]
    set_rng_state(state)
    assert draws == [(torch.rand(1).item(), np.random.rand(), random.random()) for _ in range(2)]


def test_an_existing_run_needs_resume_or_overwrite(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    with pytest.raises(
        ValueError, match=r"run folder '.*run' exists; give resume=True, overwrite=True or another path"
    ):
        RunFolder.open(folder)
    with pytest.raises(ValueError, match="resume=True and overwrite=True exclude each other"):
        RunFolder.open(folder, resume=True, overwrite=True)


def test_overwriting_touches_nothing_else(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    (folder / "notes.txt").write_text("mine")
    opened = RunFolder.open(folder, overwrite=True)
    assert has_checkpoint(folder), "opening alone removes nothing"
    opened.prepare()
    assert {path.name for path in folder.iterdir()} == {"notes.txt", ".lock"}


def test_a_folder_with_other_things_is_never_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ValueError, match="is not empty and holds no run; give another path"):
            RunFolder.open(tmp_path, **options)
    with pytest.raises(ValueError, match=r"run folder '.*thesis\.tex' is a file"):
        RunFolder.open(tmp_path / "thesis.tex", overwrite=True)


def test_resume_without_a_run_starts_one_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    said = f"low-mode: nothing to resume in {folder}: a new run starts"
    for epochs, starts in ((1, True), (2, False)):
        settings = quick_settings(epochs=epochs, milestones=())
        result = train(tiny_net(), digits(), settings, RunFolder.open(folder, resume=True), resume=True)
        assert isinstance(result, RunResult) and len(result.records) == epochs
        assert capsys.readouterr().out.splitlines().count(said) == starts
    train(tiny_net(), digits(), quick_settings(epochs=1), RunFolder.open(tmp_path / "other"))
    assert "nothing to resume" not in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"^run folder '.*' has none; no whole checkpoint is left, start again"):
        load_checkpoint(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fails(*arguments: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lowmode_fx.utils.atomic.sync_file", fails)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.txt", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]
