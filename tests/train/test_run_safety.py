"""What a run folder survives: a second process, lost checkpoints, a failure, a closed output, odd states."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from rich.console import Console
from test_train_checkpoint import assert_equal, final_state, stop_after
from training import digits, quick_run, quick_settings, tiny_net

from lowmode_fx.train import CheckpointError, RunFolder, TrainingDivergedError, load_checkpoint, train
from lowmode_fx.train.events import Events
from lowmode_fx.train.interrupts import Interrupts
from lowmode_fx.train.names import CURRENT, LOCK, PREVIOUS, STATE_FILE
from lowmode_fx.train.progress import Reporter

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("safety") / "run"
    quick_run(quick_settings(epochs=2), folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The folder of a run of two epochs, to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def status(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


# One process a folder


def hold(path: str, ready: Any, done: Any) -> None:
    with FileLock(Path(path) / LOCK):
        ready.set()
        done.wait(60)


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_a_second_process_gets_a_line_and_changes_nothing(copy: Path, options: dict[str, bool]) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(copy), ready, done))
    process.start()
    try:
        assert ready.wait(30)
        before = {path.name for path in copy.iterdir()}
        with pytest.raises(ValueError, match=r"^another process trains in .*run'; wait for it, or give another path"):
            RunFolder.open(copy, **options)
        folder = RunFolder(copy, **options)  # one that was opened before the other process came
        with pytest.raises(ValueError, match="another process trains"):
            train(tiny_net(), digits(), quick_settings(), folder, resume="resume" in options, quiet=True)
        assert {path.name for path in copy.iterdir()} == before and status(copy)["status"] == "complete"
    finally:
        done.set()
        process.join()
    with RunFolder.open(copy, **options).held():  # the lock goes with its process
        pass


def test_a_run_that_came_meanwhile_is_not_written_over(finished: Path, tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path / "run")
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(ValueError, match="exists; give resume=True, overwrite=True or another path"):
        train(tiny_net(), digits(), quick_settings(), folder, quiet=True)
    assert status(tmp_path / "run")["status"] == "complete"


def test_results_without_a_checkpoint_are_not_replaced(copy: Path) -> None:
    for name in (CURRENT, PREVIOUS):
        shutil.rmtree(copy / name)
    with pytest.raises(ValueError, match="holds results and no checkpoint to resume from; give overwrite=True"):
        RunFolder.open(copy, resume=True)
    RunFolder.open(copy, overwrite=True)


# The end of a run


def test_a_run_that_fails_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError):
        quick_run(quick_settings(lr=1e30), tmp_path / "run")
    summary = status(tmp_path / "run")
    assert summary["status"] == "failed" and summary["reason"].startswith("TrainingDivergedError: training loss is nan")


def test_a_closed_terminal_saves_as_sigterm_does(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 16, signal.SIGHUP)
        _, result = quick_run(quick_settings(epochs=2), tmp_path / "run")
    assert result.interrupted == signal.SIGHUP and load_checkpoint(tmp_path / "run").state["step"] == 5
    quick_run(quick_settings(epochs=2), tmp_path / "run", resume=True)
    assert_equal(final_state(finished), final_state(tmp_path / "run"))


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupts.received
    finally:
        signal.signal(signal.SIGHUP, before)


class ClosedAfter(Console):
    """Somebody reads some lines, as ``head`` does."""

    def __init__(self, lines: int, error: type[BaseException]) -> None:
        super().__init__(width=80)
        self.lines, self.error = lines, error

    def print(self, *objects: Any, **options: Any) -> None:
        self.lines -= 1
        if self.lines < 0:
            raise self.error()


@pytest.mark.parametrize("error", [BrokenPipeError, SystemExit])
def test_a_closed_output_saves_and_ends(
    finished: Path, tmp_path: Path, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    settings = quick_settings(epochs=2)
    result = train(tiny_net(), digits(), settings, RunFolder.open(folder), console=ClosedAfter(0, error))
    assert result.interrupted == signal.SIGPIPE and len(result.records) == 1
    assert status(folder)["status"] == "interrupted"
    quick_run(settings, folder, resume=True)
    assert_equal(final_state(finished), final_state(folder))


def test_an_output_that_was_closed_before_the_first_epoch_ends_the_run_too(tmp_path: Path) -> None:
    """As `head -1` closes it while the line about TensorBoard is said."""
    reporter, calls = Reporter("run", 1, 1, ClosedAfter(0, BrokenPipeError)), []
    reporter.say("no events")
    reporter.when_closed(lambda: calls.append("closed"))
    assert calls == ["closed"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Events, "__init__", lambda self, folder, step, say: say("no events"))
        patch.setattr(Events, "__exit__", lambda *_: None)
        patch.setattr(Events, "_write", lambda *_: None)
        settings = quick_settings(epochs=2)
        folder = RunFolder.open(tmp_path / "run")
        result = train(tiny_net(), digits(), settings, folder, console=ClosedAfter(0, BrokenPipeError))
    assert result.interrupted == signal.SIGPIPE and not result.records


# States


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / STATE_FILE
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


ODD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no optimizer": (lambda state: state.pop("optimizer"), "it has no 'optimizer'"),
    "no rng": (lambda state: state.pop("rng"), "it has no 'rng'"),
    "text for a step": (lambda state: state.update(step="3"), "its 'step' is of type str"),
    "a step too far": (lambda state: state.update(step=10**9), "no place in a run of 11 steps an epoch"),
    "a negative epoch": (lambda state: state.update(epoch=-1), "no place in a run"),
    "an epoch without a record": (lambda state: state.update(epoch=5), "records of 2 epochs, and has done 5"),
    "a record with an unknown field": (
        lambda state: state["records"][0].update(colour="red"),
        "its records can't be read",
    ),
    "steps that don't add up": (lambda state: state.update(mode_steps={"full": 3}), "it counts 3 steps of its epoch"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_state_falls_back_to_the_checkpoint_before(copy: Path, name: str, capsys: Any) -> None:
    change, message = ODD[name]
    edit(copy / CURRENT, change)
    result = train(
        tiny_net(),
        digits(),
        quick_settings(epochs=2),
        RunFolder.open(copy, resume=True),
        resume=True,
        console=Console(),
    )
    said = " ".join(capsys.readouterr().out.split())
    assert f"holds no run's state: {message}" in said or message in said
    assert "going on from checkpoint.previous instead" in said and len(result.records) == 2


def test_an_odd_state_with_nothing_before_is_one_line(copy: Path) -> None:
    for name in (CURRENT, PREVIOUS):
        edit(copy / name, lambda state: state.pop("step"))
    with pytest.raises(CheckpointError, match=r"it has no 'step'; .*no whole checkpoint is left, start again with"):
        quick_run(quick_settings(epochs=2), copy, resume=True)


@pytest.mark.parametrize("part", ["optimizer", "rng", "schedule"])
def test_a_part_that_does_not_fit_is_one_line(copy: Path, part: str) -> None:
    for name in (CURRENT, PREVIOUS):
        edit(copy / name, lambda state: (state["ranks"][0] if part == "rng" else state).update({part: {"strange": 1}}))
    with pytest.raises(CheckpointError, match=r"does not fit this run .*; start again with overwrite=True"):
        quick_run(quick_settings(epochs=2), copy, resume=True)
