"""Lightning: fit, accumulation, bf16, resume, averages, finders, evaluation, compile, against the loop by hand."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compiler_backends import RecordingBackend
from trainers import (
    DATA,
    LOW_FIRST,
    SCHEDULE,
    STEPS,
    accuracy,
    assert_same,
    cost_cosine,
    loader,
    make,
    network,
    plain_loop,
    sgd,
)

from lowmode_fx import AgreementSchedule, BernoulliSchedule, LowModeModel, Mode, host_loader

pytest.importorskip("lightning", reason="lightning is not installed: pip install 'lowmode-fx[lightning]'")

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.tuner import Tuner

from lowmode_fx.integrations.lightning import LowModeCallback, captured_step

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
    pytest.mark.usefixtures("one_thread"),
]


class Module(lightning.LightningModule):
    def __init__(self, net: LowModeModel | None = None, lr: float = 0.1) -> None:
        super().__init__()
        self.net = net or make()
        self.lr = lr
        self.modes: list[str] = []

    def training_step(self, batch: Any, index: int) -> Any:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.modes.append(str(self.net.last_mode))
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = sgd(self)
        optimizer.param_groups[0]["lr"] = self.lr
        return optimizer


def trainer(folder: Path, epochs: int = 2, callbacks: Any = None, **options: Any) -> lightning.Trainer:
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    chosen = [LowModeCallback()] if callbacks is None else callbacks
    given = {"logger": False, **quiet, **options}
    return lightning.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, callbacks=chosen, **given)


class OverCost(Module):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": cost_cosine(self.net, optimizer), "interval": "step"},
        }


def test_a_rate_over_the_cost(tmp_path: Path) -> None:
    module, ours = OverCost(make(LOW_FIRST)), make(LOW_FIRST)
    optimizer = sgd(ours)
    trainer(tmp_path).fit(module, loader())
    plain_loop(ours, 2, optimizer=optimizer, scheduler=cost_cosine(ours, optimizer))
    assert_same(module.net.state_dict(), ours.state_dict())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_trains_as_the_loop_by_hand(tmp_path: Path, accumulation: int) -> None:
    module, ours = Module(), make()
    trainer(tmp_path, accumulate_grad_batches=accumulation).fit(module, loader(), loader())
    assert module.modes == plain_loop(ours, 2, accumulation) and {"low", "full"} == set(module.modes)
    assert module.net.step == 2 * STEPS // accumulation
    assert_same(module.net.state_dict(), ours.state_dict())


def test_bf16_trains_in_the_modes_of_the_schedule(tmp_path: Path) -> None:
    module = Module()
    seen: list[torch.dtype] = []
    module.net[8].register_forward_hook(lambda layer, args, output: seen.append(output.dtype))
    trainer(tmp_path, precision="bf16-mixed").fit(module, loader())
    assert module.modes == [SCHEDULE.mode(step, 0).value for step in range(2 * STEPS)]
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("where", ["between epochs", "within an epoch"])
def test_a_resumed_run_is_the_whole_run_bit_for_bit(tmp_path: Path, where: str) -> None:
    whole, first, second = Module(), Module(), Module()
    trainer(tmp_path, 3).fit(whole, loader())
    stop = {"epochs": 1} if where == "between epochs" else {"epochs": 3, "max_steps": STEPS}
    half = trainer(tmp_path, **stop)
    half.fit(first, loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, 3).fit(second, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert first.modes + second.modes == whole.modes and second.net.step == 3 * STEPS
    assert_same(second.net.state_dict(), whole.net.state_dict())
    plain = network()
    weights = {name.removeprefix("net."): value for name, value in second.state_dict().items()}
    plain.load_state_dict(weights, strict=True)
    assert accuracy(plain) == accuracy(second.net)


def every_step(folder: Path) -> Any:
    return ModelCheckpoint(
        folder, every_n_train_steps=1, save_top_k=-1, filename="{step}", enable_version_counter=False
    )


@pytest.mark.filterwarnings("ignore:'set_vital'")
@pytest.mark.parametrize("stop", [1, 6])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_stateful_host_loader_goes_on_in_the_middle_of_an_epoch(tmp_path: Path, stop: int, accumulation: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

    def run(module: Module, callbacks: Any, **options: Any) -> Module:
        batches = host_loader(
            DATA, module.net, 8 // accumulation, accumulation=accumulation, loader=stateful.StatefulDataLoader
        )
        fitted = trainer(tmp_path, 2, callbacks, accumulate_grad_batches=accumulation, enable_checkpointing=True)
        fitted.fit(module, batches, **options)
        return module

    whole, second = (Module(make(downsample_on="host")) for _ in range(2))
    run(whole, [LowModeCallback(), every_step(tmp_path)])
    run(second, [LowModeCallback()], ckpt_path=tmp_path / f"step={stop}.ckpt")
    assert second.modes == whole.modes[stop * accumulation :] and second.net.step == 2 * STEPS
    assert_same(second.net.state_dict(), whole.net.state_dict())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_without_the_callback_it_trains_and_what_is_missing_is_told(tmp_path: Path, accumulation: int) -> None:
    module = Module()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer(tmp_path, 2, [], accumulate_grad_batches=accumulation).fit(module, loader())
    told = [str(each.message) for each in found if "net.attach" in str(each.message)]
    assert len(told) == accumulation - 1 and module.net.step == 2 * STEPS // accumulation
    due = [SCHEDULE.mode(number // accumulation, 0).value for number in range(2 * STEPS)]
    assert module.modes[accumulation:] == due[accumulation:]  # from the first step on


def test_a_resume_that_lost_the_schedule_says_so(tmp_path: Path) -> None:
    first, second = Module(), Module()
    half = trainer(tmp_path, 1)
    half.fit(first, loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    for group in saved["optimizer_states"][0]["param_groups"]:
        for name in [name for name in group if name.startswith("lowmode_")]:
            del group[name]
    torch.save(saved, tmp_path / "half.ckpt")
    with pytest.warns(
        UserWarning, match="the schedule starts at step 0: no loaded state dict has the schedule's state"
    ):
        trainer(tmp_path, 2).fit(second, loader(), ckpt_path=tmp_path / "half.ckpt")


def test_statistics_for_averaged_weights_come_from_full_steps(tmp_path: Path) -> None:
    module = Module(make(BernoulliSchedule(p=1.0)))
    average = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    trainer(tmp_path, 2, callbacks=[average, LowModeCallback()]).fit(module, loader())
    expected = network()
    expected.load_state_dict(module.net.state_dict())
    torch.optim.swa_utils.update_bn(DATA.tensors[0].split(8), expected)
    for ours, theirs in zip(module.net.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)  # Lightning takes one more step, by momentum
    assert module.net.step == 2 * STEPS


@pytest.mark.parametrize("kind", [WeightAveraging, EMAWeightAveraging])
def test_its_averages_of_the_weights_go_on_too(tmp_path: Path, kind: Any) -> None:
    whole, second = Module(), Module()
    keep = every_step(tmp_path)
    trainer(tmp_path, 2, [kind(), LowModeCallback(), keep], enable_checkpointing=True).fit(whole, loader(), loader())
    again = trainer(tmp_path, 2, [kind(), LowModeCallback()])
    again.fit(second, loader(), loader(), ckpt_path=tmp_path / f"step={STEPS}.ckpt")
    assert whole.modes == [SCHEDULE.mode(step, 0).value for step in range(2 * STEPS)]
    assert second.modes == whole.modes[STEPS:] and second.net.step == 2 * STEPS
    assert_same(second.net.state_dict(), whole.net.state_dict())  # the average


def test_finding_a_batch_size_and_a_summary_leave_the_schedule(tmp_path: Path) -> None:
    class Sized(Module):
        batch_size = 2

        def forward(self, images: Any) -> Any:
            return self.net(images)

        def train_dataloader(self) -> Any:
            return loader(8)

        val_dataloader = train_dataloader

    module = Sized()
    module.example_input_array = DATA.tensors[0][:2]
    searcher = trainer(tmp_path, 2, enable_model_summary=True)
    Tuner(searcher).scale_batch_size(module, steps_per_trial=2, init_val=2, max_trials=2)
    module.modes.clear()
    searcher.fit(module)
    assert module.modes == [SCHEDULE.mode(step, 0).value for step in range(2 * STEPS)]


def test_finding_a_learning_rate_leaves_the_schedule(tmp_path: Path) -> None:
    module = Module()
    searcher = trainer(tmp_path, 2)
    Tuner(searcher).lr_find(module, loader(), num_training=5, max_lr=0.2, update_attr=False)
    module.modes.clear()
    searcher.fit(module, loader())
    assert module.modes == [SCHEDULE.mode(step, step // STEPS).value for step in range(2 * STEPS)]


def test_it_logs_each_mode(tmp_path: Path) -> None:
    module = Module()
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path)
    trainer(tmp_path, 1, logger=logger, log_every_n_steps=1).fit(module, loader())
    text = (Path(logger.log_dir) / "metrics.csv").read_text()
    header = text.splitlines()[0].split(",")
    assert {"low_mode/low_step", "low_mode/low_loss", "low_mode/full_loss", "low_mode/low_seconds"} <= set(header)
    rows = [dict(zip(header, line.split(","), strict=True)) for line in text.splitlines()[1:]]
    assert [float(row["low_mode/low_step"]) == 1.0 for row in rows if row["low_mode/low_step"]] == [
        mode == "low" for mode in module.modes
    ]
    share = [float(row["low_mode/low_epoch"]) for row in rows if row["low_mode/low_epoch"]]
    assert share == [module.modes.count("low") / STEPS]


@pytest.mark.parametrize("own", [True, False])
def test_each_mode_is_compiled_once(tmp_path: Path, own: bool, nothing_compiled_yet: None) -> None:
    backend = RecordingBackend()
    options = {"compile": True, "compile_options": {"backend": backend}} if own else {}
    module = Module(make(**options))
    net = module.net
    if not own:
        module.net = torch.compile(net, backend=backend)  # type: ignore[assignment]
    trainer(tmp_path, 3).fit(module, loader())
    assert len(backend.graphs) == 2 and net.step == 3 * STEPS


def test_a_checkpoint_with_schedules_among_hyper_parameters_loads(tmp_path: Path) -> None:
    class Configured(Module):
        def __init__(self, schedule: Any, other: Any) -> None:
            super().__init__(make(schedule))
            self.save_hyperparameters()

    module = Configured(BernoulliSchedule(p=0.25), AgreementSchedule(every=100))
    fitted = trainer(tmp_path, 1)
    fitted.fit(module, loader())
    fitted.save_checkpoint(tmp_path / "end.ckpt")
    again = Configured.load_from_checkpoint(tmp_path / "end.ckpt")
    assert again.hparams["schedule"] == BernoulliSchedule(p=0.25)
    assert vars(again.hparams["other"]) == vars(AgreementSchedule(every=100))
    assert_same(again.net.state_dict(), module.net.state_dict())


def test_a_module_without_a_net_is_reported(tmp_path: Path) -> None:
    module = Module()
    module.net = network()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^Module holds no LowModeModel; wrap its network"):
        trainer(tmp_path).fit(module, loader())


def test_evaluation_is_the_models(tmp_path: Path) -> None:
    module = Module()
    fitted = trainer(tmp_path, 1)
    fitted.fit(module, loader(), loader())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = fitted.validate(module, loader(), verbose=False)
    plain = network()
    plain.load_state_dict(module.net.state_dict())
    assert found["accuracy"] == pytest.approx(accuracy(plain)) and module.net.last_mode in (Mode.FULL, Mode.LOW)


class Manual(Module):
    """Takes whole steps by itself."""

    def __init__(self, accumulate: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False
        self.accumulate = accumulate

    def on_train_start(self) -> None:
        self.step = captured_step(self, F.cross_entropy, accumulate=self.accumulate)

    def training_step(self, batch: Any, index: int) -> Any:
        loss = self.step(*batch)
        self.modes.append(str(self.net.last_mode))
        return loss


@pytest.mark.parametrize("accumulation", [1, 2])
def test_captured_steps_train_as_the_loop_by_hand_and_are_counted(tmp_path: Path, accumulation: int) -> None:
    module, ours = Manual(accumulation), make()
    fitted = trainer(tmp_path)
    fitted.fit(module, loader())
    assert module.modes == plain_loop(ours, 2, accumulation) and {"low", "full"} == set(module.modes)
    assert_same(module.net.state_dict(), ours.state_dict())
    assert fitted.global_step == module.net.step == 2 * STEPS // accumulation


def test_captured_steps_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole, first, second = Manual(), Manual(), Manual()
    trainer(tmp_path).fit(whole, loader())
    begun = trainer(tmp_path, epochs=1)
    begun.fit(first, loader())
    begun.save_checkpoint(tmp_path / "first.ckpt")
    trainer(tmp_path).fit(second, loader(), ckpt_path=tmp_path / "first.ckpt")
    assert first.modes + second.modes == whole.modes
    assert_same(second.net.state_dict(), whole.net.state_dict())


def test_captured_steps_run_in_lightnings_precision(tmp_path: Path) -> None:
    kinds = []

    def criterion(outputs: Any, labels: Any) -> Any:
        kinds.append(outputs.dtype)
        return F.cross_entropy(outputs, labels)

    module = Manual()
    module.on_train_start = lambda: setattr(module, "step", captured_step(module, criterion))
    trainer(tmp_path, epochs=1, precision="bf16-mixed").fit(module, loader())
    assert set(kinds) == {torch.bfloat16}


def test_captured_steps_beside_lightnings_own_are_refused(tmp_path: Path) -> None:
    module = Manual()
    module.automatic_optimization = True
    with pytest.raises(ValueError, match="automatic_optimization is True, so that Lightning would step too"):
        trainer(tmp_path).fit(module, loader())


def test_captured_steps_in_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning.Trainer, "world_size", 2)
    with pytest.raises(ValueError, match="captured_step does not exchange gradients, and the trainer has 2 processes"):
        trainer(tmp_path).fit(Manual(), loader())


def test_captured_steps_scale_by_lightnings_scaler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler("cpu")
    module, fitted = Manual(), trainer(tmp_path)
    monkeypatch.setattr(fitted.precision_plugin, "scaler", scaler, raising=False)
    fitted.fit(module, loader())
    assert module.step.scaler is scaler
