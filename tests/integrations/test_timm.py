"""timm: the loop of its training script on its own tasks, optimizers, schedulers, averages and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from compiler_backends import RecordingBackend
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask, MultiLabelClassificationTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver, NativeScaler
from torch import nn
from trainers import IMAGES, LABELS, SCHEDULE, STEPS, accuracy, assert_same, loader, make, network

from lowmode_fx import BernoulliSchedule, LowModeModel, build_pair
from lowmode_fx.integrations.timm import LowModeTask, low_mode_task

pytestmark = pytest.mark.usefixtures("one_thread")


class Script:
    """What ``train.py`` builds, in its order, and one epoch of it."""

    def __init__(self, net: LowModeModel, opt: str = "momentum", folder: Path | None = None, resume: str = "") -> None:
        self.net = net
        self.optimizer = create_optimizer_v2(net, opt=opt, lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.task = LowModeTask(net, nn.CrossEntropyLoss(), verbose=False)
        self.task.attach(self.optimizer)
        self.first = resume_task_checkpoint(self.task, resume, self.optimizer, log_info=False) if resume else 0
        self.task.setup_ema(decay=0.5)
        if resume:
            load_task_ema_checkpoint(self.task, resume)
        self.scheduler, _ = create_scheduler_v2(self.optimizer, sched="cosine", num_epochs=4)
        self.saver = None
        if folder is not None:
            folders = {"checkpoint_dir": str(folder), "recovery_dir": str(folder)}
            average = self.task.get_trainable_module(ema=True)
            self.saver = CheckpointSaver(net, self.optimizer, model_ema=average, **folders)
        self.updates = self.first * STEPS
        self.modes: list[str] = []

    def epochs(self, last: int, accumulation: int = 1, scaler: Any = None, dtype: Any = None) -> Script:
        for epoch in range(self.first, last):
            self.task.set_epoch(epoch)
            self.task.train()
            for number, (images, labels) in enumerate(loader(), start=1):
                update = number % accumulation == 0
                with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                    loss = self.task(images, labels)["loss"] / accumulation
                self.modes.append(str(self.net.last_mode))
                if scaler is not None:
                    scaler(loss, self.optimizer, need_update=update)
                else:
                    loss.backward()
                    if update:
                        self.optimizer.step()
                if update:
                    self.updates += 1
                    self.task.update_ema(step=self.updates)
                    self.optimizer.zero_grad()
            if hasattr(self.optimizer, "sync_lookahead"):
                self.optimizer.sync_lookahead()
            self.scheduler.step(epoch + 1)
            if self.saver is not None:
                self.saver.save_checkpoint(epoch, metric=0.0)
        return self


def due(steps: int, accumulation: int = 1) -> list[str]:
    return [SCHEDULE.mode(step, 0).value for step in range(steps) for _ in range(accumulation)]


@pytest.mark.parametrize("opt", ["momentum", "adamw", "lookahead_momentum"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_its_loop_trains_in_the_modes_of_the_schedule(opt: str, accumulation: int) -> None:
    ours = Script(make(), opt).epochs(2, accumulation)
    assert ours.modes == due(2 * STEPS // accumulation, accumulation) and ours.net.step == 2 * STEPS // accumulation


@pytest.mark.parametrize("scaled", [True, False])
def test_bf16_and_its_scaler(scaled: bool) -> None:
    scaler = NativeScaler(device="cpu") if scaled else None
    assert Script(make()).epochs(2, scaler=scaler, dtype=torch.bfloat16).modes == due(2 * STEPS)


@pytest.mark.parametrize("opt", ["momentum", "lookahead_momentum"])
def test_a_resumed_run_is_the_whole_run_bit_for_bit(tmp_path: Path, opt: str) -> None:
    whole = Script(make(), opt).epochs(3)
    first = Script(make(), opt, tmp_path).epochs(1)
    second = Script(make(), opt, resume=str(tmp_path / "last.pth.tar"))
    assert second.first == 1 and second.net.step == STEPS
    second.scheduler.step(1)
    second.epochs(3)
    assert first.modes + second.modes == whole.modes
    assert_same(second.net.state_dict(), whole.net.state_dict())
    average = second.task.get_trainable_module(ema=True).module
    assert_same(average.state_dict(), whole.task.get_trainable_module(ema=True).module.state_dict())
    assert average.is_copy and average.step == STEPS
    saved = torch.load(tmp_path / "last.pth.tar", weights_only=True)
    plain = network()
    plain.load_state_dict(saved["state_dict"], strict=True)
    assert accuracy(plain) == accuracy(first.net)


@pytest.mark.parametrize("attach_first", [True, False])
def test_scripts_without_tasks_go_on_too(tmp_path: Path, attach_first: bool) -> None:
    """As ``train.py`` was before tasks: ``CheckpointSaver(model)`` and ``resume_checkpoint``."""

    def train(net: LowModeModel, optimizer: Any, steps: range) -> list[str]:
        modes = []
        for step in steps:
            nn.functional.cross_entropy(net(IMAGES[:8] + step), LABELS[:8]).backward()
            modes.append(str(net.last_mode))
            optimizer.step()
            optimizer.zero_grad()
        return modes

    whole, first, second = (make() for _ in range(3))
    optimizers = [create_optimizer_v2(net, opt="momentum", lr=0.1, momentum=0.9) for net in (whole, first, second)]
    whole.attach(optimizers[0])
    first.attach(optimizers[1])
    modes, begun = train(whole, optimizers[0], range(6)), train(first, optimizers[1], range(3))
    folders = {"checkpoint_dir": str(tmp_path), "recovery_dir": str(tmp_path)}
    CheckpointSaver(first, optimizers[1], **folders).save_checkpoint(0, metric=0.0)
    if attach_first:
        second.attach(optimizers[2])
    assert timm.models.resume_checkpoint(second, str(tmp_path / "last.pth.tar"), optimizers[2], log_info=False) == 1
    if not attach_first:
        second.attach(optimizers[2])
    assert second.step == 3 and begun + train(second, optimizers[2], range(3, 6)) == modes
    assert_same(second.state_dict(), whole.state_dict())


def test_its_evaluation_is_the_models_with_the_weights_and_with_their_average() -> None:
    ours = Script(make()).epochs(2)
    step = ours.net.step
    for average in (False, True):
        evaluated, plain = ours.task.get_eval_model(ema=average), network()
        plain.load_state_dict(
            ours.task.get_checkpoint_state(ema=average)["state_dict_ema" if average else "state_dict"]
        )
        with torch.no_grad():
            assert torch.equal(evaluated.eval()(IMAGES), plain.eval()(IMAGES))
    assert ours.net.step == step


def test_full_mode_trains_as_the_plain_task_does() -> None:
    ours, plain = Script(make(BernoulliSchedule(p=0.0))).epochs(2), network()
    task = ClassificationTask(plain, nn.CrossEntropyLoss(), verbose=False)
    optimizer = create_optimizer_v2(plain, opt="momentum", lr=0.1, momentum=0.9, weight_decay=1e-4)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=4)
    for epoch in range(2):
        for images, labels in loader():
            task(images, labels)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step(epoch + 1)
    assert_same(ours.net.state_dict(), plain.state_dict())


def test_its_compile_compiles_each_mode_once(nothing_compiled_yet: None) -> None:
    backend = RecordingBackend()
    ours = Script(make())
    ours.task.compile(backend=backend)
    assert ours.epochs(3).modes == due(3 * STEPS) and len(backend.graphs) == 2
    assert list(ours.task.get_checkpoint_state()["state_dict"]) == list(network().state_dict())


def test_any_task_keeps_the_schedule() -> None:
    made = low_mode_task(MultiLabelClassificationTask(make(), verbose=False))
    made.attach(torch.optim.SGD(made.parameters(), lr=0.1))
    made(IMAGES[:8], nn.functional.one_hot(LABELS[:8], 5).float())["loss"].backward()
    net = made.get_trainable_module()
    net.load_schedule_state({"step": 7, "epoch": 2})
    state = made.get_task_state()
    net.load_schedule_state({"step": 0, "epoch": 0})
    made.load_task_state(state)
    assert (net.step, net.epoch) == (7, 2)
    with pytest.raises(ValueError, match="Sequential holds no LowModeModel"):
        low_mode_task(ClassificationTask(network(), nn.CrossEntropyLoss(), verbose=False))


class Scaled(nn.Module):
    """Names a weight that does not decay, and its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

    def no_weight_decay(self) -> set[str]:
        return {"scale"}

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": "^stem", "blocks": "^body|^scale"}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head((self.body(self.stem(images).relu()) * self.scale).mean((2, 3)))


@pytest.mark.parametrize("make_model", [lambda: timm.create_model("convnext_atto", num_classes=5), Scaled])
def test_groups_by_layer_are_the_models(make_model: Any) -> None:
    torch.manual_seed(0)
    model = make_model()
    net = LowModeModel(build_pair(model, torch.zeros(2, 3, 64, 64)), SCHEDULE, compile=False)
    options: dict[str, Any] = {"opt": "adamw", "lr": 0.1, "weight_decay": 0.05, "layer_decay": 0.7}
    ours, theirs = create_optimizer_v2(net, **options), create_optimizer_v2(model, **options)
    assert len(ours.param_groups) == len(theirs.param_groups) > 2
    for mine, plain in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert mine["lr_scale"] == plain["lr_scale"] and mine["weight_decay"] == plain["weight_decay"]
        assert all(a is b for a, b in zip(mine["params"], plain["params"], strict=True))
