"""A run in TensorBoard's events: read back by TensorBoard itself where it is installed."""

from __future__ import annotations

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_train_checkpoint import stop_after
from training import quick_run, quick_settings, tiny_net

from lowmode_fx.train.events import Events
from lowmode_fx.train.records import EpochRecord

pytestmark = pytest.mark.usefixtures("one_thread")
installed = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")
RECORD = EpochRecord(0, 3.0, 3.0, 0.5, 0.75, {"low": 6, "full": 2}, 0.1, 0.0, {"low": 0.6, "full": 0.8})


class Writer:
    """What torch's SummaryWriter is called with."""

    made: ClassVar[list[Writer]] = []

    def __init__(self, place: str, purge_step: int) -> None:
        self.place, self.purge_step, self.closed = place, purge_step, False
        self.written: dict[tuple[str, int], float] = {}
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.written[name, step] = value

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    class Module:
        SummaryWriter = Writer

    Writer.made = []
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", Module)
    return Writer


def test_an_epoch_by_hand(writer: type[Writer], tmp_path: Path) -> None:
    said: list[str] = []
    with Events(tmp_path, 24, said.append) as events:
        events.epoch(RECORD)
        events.test(0.5)
    (made,) = writer.made
    assert (made.place, made.purge_step, made.closed) == (str(tmp_path / "tensorboard"), 24, True)
    assert made.written == pytest.approx(
        {
            ("loss/train", 32): 0.5,
            ("accuracy/validation", 32): 0.75,
            ("learning_rate", 32): 0.1,
            ("seconds/epoch", 32): 3.0,
            ("steps/low", 32): 0.75,
            ("steps/full", 32): 0.25,
            ("seconds_a_step/low", 32): 0.1,
            ("seconds_a_step/full", 32): 0.4,
            ("accuracy/test", 32): 0.5,
        }
    )
    assert not said


def test_a_run_and_its_continuation(writer: type[Writer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that were taken before the kill are counted, and so are their seconds."""
    with monkeypatch.context() as patch:
        stop_after(patch, 16)
        quick_run(quick_settings(epochs=3), tmp_path / "run")
    _, result = quick_run(quick_settings(epochs=3), tmp_path / "run", resume=True, net=tiny_net(seed=7))
    first, second = writer.made
    assert [step for name, step in first.written if name == "learning_rate"] == [11]
    assert [step for name, step in second.written if name == "learning_rate"] == [22, 33]
    assert second.purge_step == 11 and second.written["learning_rate", 33] == pytest.approx(0.01)
    for record in result.records:
        assert 0 < sum(record.mode_seconds.values()) <= record.seconds
        assert set(record.mode_seconds) == {mode for mode, count in record.steps.items() if count}
    summary = json.loads((tmp_path / "run/summary.json").read_text())["results"]
    assert summary["step_seconds"] == {mode: round(value, 6) for mode, value in result.step_seconds.items()}
    assert set(result.step_seconds) == {"low", "full"}
    quick_run(quick_settings(epochs=3), tmp_path / "run", resume=True)
    assert len(writer.made) == 2, "nothing was left to tell"


def test_a_disk_that_is_full_ends_the_events_alone(
    writer: type[Writer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Writer) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "flush", full)
    said: list[str] = []
    with Events(tmp_path, 0, said.append) as events:
        events.epoch(RECORD)
        events.epoch(RECORD)
    assert said == ["no more events for TensorBoard: [Errno 28] No space left on device"]


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (False, []),
        (True, ["no events for TensorBoard: it can't be imported: No module named 'torch.utils.tensorboard'"]),
    ],
)
def test_without_tensorboard_nothing_is_said_unless_it_is_broken(
    there: bool, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = builtins.__import__

    def missing(name: str, *given: Any, **named: Any) -> Any:
        if name == "torch.utils.tensorboard":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return whole(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr("lowmode_fx.train.events.find_spec", lambda name: {"tensorboard": there}[name] or None)
    said: list[str] = []
    with Events(tmp_path, 0, said.append) as events:
        events.epoch(RECORD)
        events.epoch(RECORD)
    assert said == told
    assert not list(tmp_path.iterdir())


@installed
def test_tensorboard_reads_a_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, result = quick_run(quick_settings(epochs=2, milestones=()), tmp_path / "run")
    found = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("loss/train")]
    assert losses == [
        (11, pytest.approx(result.records[0].train_loss)),
        (22, pytest.approx(result.records[1].train_loss)),
    ]
    shares = [event.value for event in found.Scalars("steps/low")]
    assert shares == pytest.approx([record.low_steps / 11 for record in result.records])
