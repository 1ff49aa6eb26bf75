"""How far a run has come in cost, and learning rates that fall over it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_checkpoint import interrupted_run
from torch import nn
from training import digits, quick_run, quick_settings, tiny_model

from lowmode_fx import (
    AgreementSchedule,
    BernoulliSchedule,
    LadderSchedule,
    LowModeConfig,
    LowModeModel,
    PeriodicSchedule,
    build_ladder,
    build_pair,
    cost_progress,
)
from lowmode_fx.train import CheckpointError, TrainSettings, train
from lowmode_fx.train.cost_progress import passed_share
from passes.errors import OptionError

pytestmark = pytest.mark.usefixtures("one_thread")


def net_of(schedule: Any) -> LowModeModel:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    configs = [LowModeConfig(kernel_ratio=1), LowModeConfig(ratio="4/3", kernel_ratio=1)]
    example = torch.zeros(2, 3, 16, 16)
    ladder = build_ladder(model, example, configs) if isinstance(schedule, LadderSchedule) else None
    return LowModeModel(ladder or build_pair(model, example, configs[0]), schedule, compile=False)


def test_a_ladder_by_macs() -> None:
    # A quarter of the pixels for two epochs, 9/16 for one, then all for one: of 0.5 + 0.5625 + 1.
    found = cost_progress(net_of(LadderSchedule((2, 1, 1))), epochs=4, steps_per_epoch=5)
    assert found == pytest.approx([0, 0.25 / 2.0625, 0.5 / 2.0625, 1.0625 / 2.0625, 1])


def test_given_costs_and_later_epochs() -> None:
    net = net_of(LadderSchedule((1, 1, 1)))
    found = cost_progress(net, 4, 5, {"r2": 0.5, "r4/3": 1.5})
    assert found == pytest.approx([0, 0.5 / 4, 2 / 4, 3 / 4, 1])


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [(BernoulliSchedule([0.5, 0.0]), (0.5, 0.0)), (PeriodicSchedule(4), (0.25, 0.25))],
    ids=["drawn", "counted"],
)
def test_modes_that_share_an_epoch(schedule: Any, shares: tuple[float, float]) -> None:
    first, second = (1 - 0.75 * share for share in shares)
    assert cost_progress(net_of(schedule), 2, 8) == pytest.approx([0, first / (first + second), 1])


@pytest.mark.parametrize(
    "schedule", [BernoulliSchedule([0.5, 0.0]), PeriodicSchedule(2, milestones=(1,), hold_epochs=1)]
)
def test_larger_batches_of_low_steps_count_by_their_images(schedule: Any) -> None:
    model = net_of(BernoulliSchedule(0.5)).ladder
    net = LowModeModel(model, schedule, batch_multiplier=4, compile=False)
    # Four of five images are in low-mode, at a quarter of the cost.
    first = 0.8 * 0.25 + 0.2
    assert cost_progress(net, 2, 100) == pytest.approx([0, first / (first + 1), 1])


def test_a_model_that_cannot_be_counted_follows_the_steps(capsys: pytest.CaptureFixture[str]) -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.body = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()))
            self.head = nn.Linear(8, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(self.stem(images)).mean((2, 3)))

    pair = build_pair(Scripted(), torch.zeros(2, 3, 16, 16), LowModeConfig(kernel_ratio=1))
    net = LowModeModel(pair, BernoulliSchedule([1.0, 0.0]), compile=False)
    with pytest.raises(ValueError, match="body is TorchScript, whose macs can't be counted; give costs"):
        cost_progress(net, 2, 5)
    assert cost_progress(net, 2, 5, {"low": 0.25}) == pytest.approx([0, 0.2, 1])
    settings = quick_settings(epochs=2, lr_schedule="cosine", lr_over="macs")
    found = train(net, digits(), settings).records
    assert "the rate follows the steps: body is TorchScript" in capsys.readouterr().out
    steps = sum(found[0].steps.values())
    assert found[0].lr == pytest.approx(settings.learning_rate(0, (steps - 1) / steps))


def test_what_has_no_progress_is_refused() -> None:
    net = net_of(LadderSchedule((1, 1, 1)))
    with pytest.raises(ValueError, match=r"costs has no 'r4/3'; give a cost for each low mode, such as"):
        cost_progress(net, 3, 5, {"r2": 0.3})
    with pytest.raises(ValueError, match=r"costs\['r2'\]=0 is out of range"):
        cost_progress(net, 3, 5, {"r2": 0, "r4/3": 1})
    with pytest.raises(ValueError, match=r"costs\['r3'\] is no low mode's; the low modes are r2, r4/3"):
        cost_progress(net, 3, 5, {"r2": 0.3, "r4/3": 0.6, "r3": 0.1})
    with pytest.raises(TypeError, match="costs"):
        cost_progress(net, 3, 5, [0.3, 0.6])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="net"):
        cost_progress(net.ladder, 3, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="AgreementSchedule chooses modes during training, so the cost"):
        cost_progress(net_of(AgreementSchedule(80)), 3, 5)
    with pytest.raises(
        OptionError, match="lr_over='macs' needs a rate over the whole run, and lr_schedule='milestones'"
    ):
        TrainSettings(lr_over="macs")


def test_between_the_ends_of_epochs() -> None:
    progress = (0.0, 0.2, 1.0)
    assert [passed_share(progress, *at) for at in ((0, 0.5), (1, 0.25), (2, 0.0))] == pytest.approx([0.1, 0.4, 1])


@pytest.mark.parametrize("lr_schedule", ["cosine", "onecycle"])
def test_a_full_tail_begins_at_a_higher_rate(lr_schedule: Any) -> None:
    rates = {}
    for lr_over in ("steps", "macs"):
        torch.manual_seed(0)
        model = tiny_model()
        pair = build_pair(model, torch.zeros(2, 3, 16, 16), LowModeConfig(kernel_ratio=1))
        net = LowModeModel(pair, BernoulliSchedule([1.0, 1.0, 1.0, 0.0]), compile=False)
        settings = quick_settings(epochs=4, lr=0.1, lr_schedule=lr_schedule, lr_over=lr_over, warmup_epochs=0)
        result = train(net, digits(), settings, quiet=True)
        rates[lr_over] = [record.lr for record in result.records]
        if lr_over == "macs":
            steps = sum(result.records[0].steps.values())
            passed = cost_progress(net, 4, steps)
            last = passed[2] + (passed[3] - passed[2]) * (steps - 1) / steps
            wanted = 0.1 * (1 + math.cos(math.pi * last)) / 2
            assert lr_schedule == "onecycle" or rates["macs"][2] == pytest.approx(wanted)
    assert rates["macs"][2] > 2 * rates["steps"][2]


def test_full_mode_alone_is_what_it_was() -> None:
    found = [
        train(tiny_model(), digits(), quick_settings(lr_schedule="cosine", lr_over=over), quiet=True).records[-1]
        for over in ("steps", "macs")
    ]
    assert found[0].lr == found[1].lr


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = quick_settings(epochs=2, lr_schedule="cosine", lr_over="macs")
    interrupted_run(settings, tmp_path, monkeypatch)
    assert settings.trajectory()["lr_over"] == "macs" and "lr_over" not in quick_settings().trajectory()


def test_another_progress_is_another_run(tmp_path: Path) -> None:
    quick_run(quick_settings(epochs=2, lr_schedule="cosine"), tmp_path / "run")
    with pytest.raises(CheckpointError, match="lr_over is 'macs', the run there has 'steps'"):
        quick_run(quick_settings(epochs=2, lr_schedule="cosine", lr_over="macs"), tmp_path / "run", resume=True)
