"""``train`` with captured steps, as on a GPU: the recorder captures them here, with the bits of uncaptured runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_checkpoint import assert_equal, final_state, stop_after
from torch import nn
from training import digits, quick_settings, tiny_ladder_net, tiny_model, tiny_net

from lowmode_fx import LadderSchedule, LowModeModel, UncapturedWarning
from lowmode_fx.runtime import train_step
from lowmode_fx.train import RunFolder, TrainSettings, train
from lowmode_fx.train import run as run_module
from tests.runtime.recorder import Recorder

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 11  # of an epoch of digits


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer that a GPU's run has, which a replay holds."""

    def make(model: nn.Module, settings: TrainSettings, device: torch.device) -> torch.optim.Optimizer:
        options = {"momentum": settings.momentum, "weight_decay": settings.weight_decay, "fused": True}
        return torch.optim.SGD(model.parameters(), lr=settings.lr, **options)

    monkeypatch.setattr(run_module, "make_optimizer", make)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Recorder]]:
    """Called, it lets all later runs capture their steps. Returns what captures them, one for each run."""

    def begin() -> list[Recorder]:
        recorders: list[Recorder] = []

        def graphs_for(device: torch.device) -> Recorder:
            recorders.append(Recorder())
            return recorders[-1]

        monkeypatch.setattr(train_step, "graphs_for", graphs_for)
        return recorders

    return begin


def run(net: nn.Module, settings: TrainSettings, folder: Path, resume: bool = False) -> Any:
    return train(net, digits(), settings, RunFolder.open(folder, resume=resume), resume=resume, quiet=True)


def grown_net() -> LowModeModel:
    """Modes r4, r2 and full; twice the images in low steps."""
    ladder = tiny_ladder_net().ladder
    return LowModeModel(ladder, LadderSchedule(epochs=(1, 1, 1)), batch_multiplier=2, compile=False)


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], int]] = {
    "plain": (tiny_net, {}, 2),
    "full-mode alone": (tiny_model, {}, 1),
    "averaged, clipped": (tiny_net, {"ema": 0.75, "clip_grad_norm": 0.5}, 2),
    "bf16": (tiny_net, {"autocast": "bf16"}, 2),
    "a rate that falls with each step": (tiny_net, {"lr_schedule": "cosine", "warmup_epochs": 1}, 2),
    "ladder": (tiny_ladder_net, {"epochs": 3}, 3),
    "growing batches": (grown_net, {"epochs": 3}, 3),
}


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("case", CASES)
def test_a_captured_run_leaves_the_bits_of_the_uncaptured_one(
    tmp_path: Path, captured: Callable[[], list[Recorder]], case: str
) -> None:
    make, changes, kinds = CASES[case]
    settings = quick_settings(**{"epochs": 2, "milestones": (), **changes})
    run(make(), settings, tmp_path / "loop")
    recorders = captured()
    result = run(make(), settings, tmp_path / "captured")
    assert_equal(final_state(tmp_path / "loop"), final_state(tmp_path / "captured"))
    taken = sum(sum(record.steps.values()) for record in result.records)
    (recorder,) = recorders
    assert recorder.captures == kinds
    assert recorder.replays == taken - 2 * kinds


@pytest.mark.usefixtures("fused")
def test_a_captured_run_that_a_signal_stops_goes_on_to_the_same_bits(
    tmp_path: Path, captured: Callable[[], list[Recorder]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick_settings(epochs=3, ema=0.75, clip_grad_norm=0.5)
    run(tiny_net(), settings, tmp_path / "loop")
    recorders = captured()
    with monkeypatch.context() as patch:
        stop_after(patch, STEPS + 5)
        assert run(tiny_net(), settings, tmp_path / "captured").interrupted
    result = run(tiny_net(seed=7), settings, tmp_path / "captured", resume=True)
    assert not result.interrupted
    assert_equal(final_state(tmp_path / "loop"), final_state(tmp_path / "captured"))
    # Either run captures both modes after two steps in each.
    assert [(recorder.captures, recorder.replays) for recorder in recorders] == [(2, STEPS + 1), (2, 2 * STEPS - 9)]


def test_an_optimizer_of_timms_steps_after_each_replay(tmp_path: Path, captured: Callable[[], list[Recorder]]) -> None:
    settings = quick_settings(epochs=2, optimizer="adamw", lr=0.01, milestones=())
    run(tiny_net(), settings, tmp_path / "loop")
    recorders = captured()
    with pytest.warns(UncapturedWarning, match="the optimizer step runs in Python after each replay: AdamW"):
        run(tiny_net(), settings, tmp_path / "captured")
    assert_equal(final_state(tmp_path / "loop"), final_state(tmp_path / "captured"))
    assert [(recorder.captures, recorder.replays) for recorder in recorders] == [(2, 2 * STEPS - 4)]
