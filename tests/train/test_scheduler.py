"""The learning rate lives in a scheduler of torch: what it is at each step, and that a stopped run goes on with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_checkpoint import assert_equal, final_state, interrupted_run, stop_after
from training import quick_run, quick_settings, tiny_model

from lowmode_fx import TrainStep
from lowmode_fx.train import TrainSettings
from lowmode_fx.train.scheduler import LearningRate
from tests.runtime.recorder import Recorder

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 4


def rates(accuracies: dict[int, float] | None = None, **changes: Any) -> list[float]:
    """The rate of every step of a run of four an epoch; accuracies: by epoch."""
    settings = TrainSettings(**{"epochs": 6, "lr": 1.0, **changes})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=settings.lr)
    learning_rate, found = LearningRate(optimizer, settings, STEPS), []
    for epoch in range(settings.epochs):
        for _ in range(STEPS):
            optimizer.step()
            learning_rate.step()
            found.append(learning_rate.rate)
        learning_rate.finish_epoch((accuracies or {}).get(epoch, 0.0))
    return found


def test_rates_that_are_known_ahead_are_those_of_the_settings_to_the_bit() -> None:
    for changes in (
        {"milestones": (2, 5)},
        {"lr_schedule": "cosine", "warmup_epochs": 2},
        {"lr_schedule": "onecycle", "lr": 0.3},
    ):
        settings = TrainSettings(**{"epochs": 6, "lr": 1.0, **changes})  # type: ignore[arg-type]
        wanted = [settings.learning_rate(step // STEPS, step % STEPS / STEPS) for step in range(6 * STEPS)]
        assert rates(**changes) == wanted


def test_rates_of_torch_by_hand() -> None:
    assert rates(lr_schedule="step", lr_gamma=0.5)[::STEPS] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert rates(lr_schedule="step", decay_epochs=4, milestones=(1,)) == pytest.approx([1.0] * 16 + [0.1] * 8)
    falling = rates(lr_schedule="exponential", decay_epochs=3)
    assert falling == pytest.approx([10 ** (-step / 12) for step in range(24)])
    assert rates(lr_schedule="linear") == pytest.approx([1 - step / 24 for step in range(24)])
    warm = rates(lr_schedule="linear", warmup_epochs=2)
    assert warm[0] == pytest.approx(0.005) and warm[8:] == pytest.approx([1 - step / 24 for step in range(8, 24)])
    assert warm[:9] == sorted(warm[:9])


def test_a_plateau_is_left_once_the_accuracy_stands_still() -> None:
    risen = {0: 0.1, 1: 0.2, 2: 0.2, 3: 0.2, 4: 0.2, 5: 0.2}
    found = rates(risen, lr_schedule="plateau", patience_epochs=1, warmup_epochs=1)
    assert found[0] == pytest.approx(0.01) and found[STEPS:][::STEPS] == pytest.approx([1, 1, 1, 0.1, 0.1])


def test_falls_that_are_known_ahead_hold_epochs() -> None:
    assert TrainSettings(lr_schedule="step", epochs=9).rate_falls == (3, 6)
    assert TrainSettings(milestones=(4,)).rate_falls == (4,) and not TrainSettings(lr_schedule="cosine").rate_falls


@pytest.mark.parametrize("kind", ["cosine", "step", "exponential", "linear", "plateau"])
def test_a_run_that_is_interrupted_ends_with_the_same_bits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick_settings(
        epochs=3, lr_schedule=kind, milestones=(), warmup_epochs=1, decay_epochs=2, patience_epochs=0
    )
    result = interrupted_run(settings, tmp_path, monkeypatch)
    assert len({record.lr for record in result.records}) > 1 or kind == "plateau"


def test_a_checkpoint_from_before_there_were_schedulers_goes_on_at_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick_settings(epochs=2, lr_schedule="cosine", milestones=())
    quick_run(settings, tmp_path / "straight")

    class Older(LearningRate):
        def state_dict(self) -> dict[str, Any]:
            return {}

    with monkeypatch.context() as patch:
        patch.setattr("lowmode_fx.train.run.LearningRate", Older)
        stop_after(patch, 16)
        quick_run(settings, tmp_path / "run")
    _, result = quick_run(settings, tmp_path / "run", resume=True)
    assert_equal(final_state(tmp_path / "straight"), final_state(tmp_path / "run"))
    assert result.records[-1].lr == pytest.approx(0.1 * (1 + math.cos(math.pi * 21 / 22)) / 2)


def test_captured_steps_read_the_scheduler_and_are_captured_once() -> None:
    """With a recorder in the place of CUDA graphs: what torch's schedulers do to an optimizer breaks no capture."""
    weights = []
    for graphs in (None, Recorder()):
        net = tiny_model(dropout=0.0)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9, fused=True)
        settings = TrainSettings(epochs=2, lr=0.5, lr_schedule="exponential", decay_epochs=1, warmup_epochs=1)
        learning_rate = LearningRate(optimizer, settings, STEPS)
        step = TrainStep(net, torch.nn.functional.cross_entropy, optimizer, graphs=graphs)
        images, labels = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
        rates = []
        for _ in range(2 * STEPS):
            step(images, labels)
            learning_rate.step()
            rates.append(learning_rate.rate)
        assert len(set(rates)) == 2 * STEPS
        weights.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
        if isinstance(graphs, Recorder):
            assert step.optimizer_outside is None and graphs.captures == 1 and graphs.replays == 2 * STEPS - 2
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
