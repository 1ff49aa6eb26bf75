"""Algorithm 1 of the paper as a loop: for each step a mode, a forward and backward pass in it, one update."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import nn

from lowmode_fx.loading.augmentation import UNCHANGED
from lowmode_fx.loading.draws import DRAWS
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.schedules import MeasuringSchedule
from lowmode_fx.runtime.train_step import TrainStep
from lowmode_fx.train.batches import steps_per_epoch, train_batches
from lowmode_fx.train.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    load_weights,
    require_same_run,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from lowmode_fx.train.data import DataSplits
from lowmode_fx.train.ema import WeightAverage
from lowmode_fx.train.evaluate import check_outputs, evaluate
from lowmode_fx.train.identity import run_identity
from lowmode_fx.train.interrupts import Interrupts
from lowmode_fx.train.loading_clock import LoadingClock
from lowmode_fx.train.loss import balanced_weights, make_criterion
from lowmode_fx.train.names import EMA
from lowmode_fx.train.optimizer import make_optimizer
from lowmode_fx.train.placement import place_images
from lowmode_fx.train.precise_bn import recompute_statistics, require_fvcore
from lowmode_fx.train.progress import Reporter
from lowmode_fx.train.records import EpochRecord, RunResult, unfinished_steps
from lowmode_fx.train.run_folder import RunFolder, environment
from lowmode_fx.train.saved_state import check_state, fitting_state
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.train.warmup import modes_to_come, warm_up
from lowmode_fx.utils.devices import synchronize
from passes.spelling import setting


class TrainingDivergedError(ValueError):
    """The training loss is no number any more."""


def train(
    model: nn.Module,
    splits: DataSplits,
    settings: TrainSettings,
    folder: RunFolder | None = None,
    *,
    label: str = "low-mode",
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    console: Console | None = None,
    quiet: bool = False,
) -> RunResult:
    """Train ``model``, a ``LowModeModel`` or any module (which then trains in full-mode only), and measure each epoch.

    folder: where every epoch ends with a checkpoint and ``metrics.csv``, and the run with ``summary.json`` and
        ``curves.png``; SIGINT and SIGTERM save a checkpoint and end the run.
    resume: go on from the folder's checkpoint, on the CPU to the very bits of a run that never stopped.
    identity: plain values, such as the model's name, beside what the summary tells and a checkpoint must agree in:
        config, schedule, data and settings.

    Raises ``ValueError`` for a model without an output for each class, a batch size above the training set's size, a
    checkpoint of another run, and a loss that is no number.
    """
    return _Run(model, splits, settings, folder, label, identity or {}, console, quiet).run(resume)


class _Run:
    """One run's state between its steps: all of it goes into a checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        splits: DataSplits,
        settings: TrainSettings,
        folder: RunFolder | None,
        label: str,
        identity: Mapping[str, Any],
        console: Console | None,
        quiet: bool,
    ) -> None:
        self.device = settings.torch_device()
        self.net = model.to(self.device)
        self.splits, self.data_on = place_images(settings.data_on, splits, self.device)
        self.loading = LoadingClock(self.device)
        self.settings = settings
        self.folder = folder
        self.label = label
        self.steps = steps_per_epoch(splits.train, settings.batch_size)
        self.reporter = Reporter(label, settings.epochs, self.steps, console, quiet)
        self.low_mode = model if isinstance(model, LowModeModel) else None
        # What torch.compile returns is called and never saved: the module itself keeps the model's own keys.
        self.forward: Any = model
        if self.low_mode is None and settings.compile:
            self.forward = torch.compile(model, dynamic=False)
        self.identity = run_identity(identity, self.low_mode, splits, settings)
        # The module whose weights train: what evaluates, averages and measures looks at it.
        self.plain = model.ladder.model if isinstance(model, LowModeModel) else model
        self.optimizer = make_optimizer(self.plain, settings, self.device)
        self.ema = WeightAverage(self.plain, settings.ema) if settings.ema else None
        weights = settings.class_weights
        if weights == "balanced":
            weights = balanced_weights(splits.train.labels, splits.num_classes)
        self.criterion = make_criterion(settings.criterion, settings.label_smoothing, weights, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.autocast == "fp16")
        autocast = settings.autocast_dtype()
        self.train_step = TrainStep(self.forward, self.criterion, self.optimizer, autocast=autocast, scaler=self.scaler)
        self.records: list[EpochRecord] = []
        self.compile_seconds = 0.0
        self.epoch = 0
        self.start_epoch()

    def start_epoch(self) -> None:
        self.step = 0
        self.mode_steps = {str(mode): 0 for mode in (self.low_mode.modes if self.low_mode else (Mode.FULL,))}
        self.seconds = 0.0
        self.loading.restart()
        # Summed on the device, in float64 where it has that: reading each loss would wait for each step.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self.loss_sum = torch.zeros((), dtype=dtype, device=self.device)

    @property
    def validated(self) -> nn.Module:
        """What is validated and tested: the averaged weights, where there is an average."""
        return self.ema.model if self.ema else self.net

    def run(self, resume: bool) -> RunResult:
        check_outputs(self.net, self.splits, self.settings, self.device)
        if self.settings.precise_bn:
            require_fvcore()
        with nullcontext() if self.folder is None else self.folder.held():
            torch.manual_seed(self.settings.seed)  # what the model draws (dropout) doesn't depend on how it was built
            if resume and self.folder is not None and has_checkpoint(self.folder.path):
                self.load(self.folder)
            self.write_summary("running")
            try:
                return self.train()
            except BaseException as error:
                self.write_failure(error)
                raise

    def train(self) -> RunResult:
        """Epoch after epoch, up to the last one or a signal."""
        interrupted = 0
        with Interrupts() as interrupts, self.reporter:
            self.reporter.on_closed = interrupts.output_closed
            if self.epoch < self.settings.epochs:
                self.warm_up()
            while self.epoch < self.settings.epochs and not interrupts.received:
                self.train_epoch(interrupts)
                if self.step == self.steps:
                    self.finish_epoch()
                self.save()
            if self.epoch < self.settings.epochs:
                interrupted = interrupts.received
        tested = None
        if self.splits.test is not None and not interrupted:
            kept_back = replace(self.splits, val=self.splits.test)
            tested = evaluate(self.validated, kept_back, self.settings, self.device)
        result = RunResult(self.label, tuple(self.records), self.compile_seconds, interrupted, tested)
        self.write_summary("interrupted" if interrupted else "complete", result)
        if self.folder is not None:
            if self.ema is not None:
                self.ema.write(self.folder.path / EMA)
            self.folder.write_metrics({self.label: self.records})
            title = f"{self.identity.get('model', type(self.net).__name__)} on {self.splits.name}"
            self.folder.write_curves({self.label: self.records}, title=title)
        return result

    def warm_up(self) -> None:
        """Pay for compilation, and whatever else only first steps cost, before the clock starts."""
        if self.settings.compile:
            self.reporter.say("compiling …")
        images, labels = next(self.batches(self.epoch, 0))
        forwards: list[Callable[[torch.Tensor], Any]] = [self.forward]
        if self.low_mode is not None:
            modes = modes_to_come(self.low_mode, self.settings.epochs, self.steps)
            forwards = [partial(self.low_mode.run, mode) for mode in modes]
        passes = [partial(self.backward, forward, images, labels) for forward in forwards]
        seconds = warm_up(self.net, self.device, passes)
        if self.settings.compile:
            self.compile_seconds += seconds
            self.reporter.say(f"compiled in {self.compile_seconds:.1f} s (not part of the training time)")

    def batches(self, epoch: int, first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return train_batches(
            self.splits,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            epoch=epoch,
            device=self.device,
            first=first,
            workers=self.settings.workers,
        )

    def backward(self, forward: Callable[[torch.Tensor], Any], images: torch.Tensor, labels: torch.Tensor) -> None:
        """One forward and backward pass, which no update follows."""
        dtype = self.settings.autocast_dtype()
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            loss = self.criterion(forward(images), labels)
        self.scaler.scale(loss).backward()

    def train_epoch(self, interrupts: Interrupts) -> None:
        """The epoch's steps from ``self.step`` on, up to its end or a signal."""
        self.net.train()
        if self.low_mode is not None:
            self.low_mode.set_epoch(self.epoch)
        synchronize(self.device)
        start = time.perf_counter()
        for images, labels in self.loading.timed(self.batches(self.epoch, self.step)):
            self.measure_agreement()
            rate = self.settings.learning_rate(self.epoch, self.step / self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.loss_sum += self.train_step(images, labels)
            if self.ema is not None:
                self.ema.update()
            self.mode_steps[str(self.low_mode.last_mode if self.low_mode else Mode.FULL)] += 1
            self.reporter.step(self.epoch, self.step)
            self.step += 1
            if interrupts.received:
                break
        synchronize(self.device)
        self.seconds += time.perf_counter() - start

    def measure_agreement(self) -> None:
        """Where the schedule asks for it, compare both modes' gradients on the coming batches: part of the time."""
        schedule = self.low_mode.schedule if self.low_mode is not None else None
        if self.low_mode is None or not isinstance(schedule, MeasuringSchedule):
            return
        if schedule.due(self.low_mode.step, self.epoch):
            # At an epoch's end its last batches: a resumed run can name them too.
            first = max(0, min(self.step, self.steps - schedule.batches))
            coming = itertools.islice(self.batches(self.epoch, first), schedule.batches)
            # float16 would need a scaler for these gradients too.
            autocast = torch.bfloat16 if self.settings.autocast == "bf16" else None
            gain = schedule.measure(self.low_mode.pair, coming, self.criterion, self.low_mode.step, autocast)
            self.reporter.say(f"step {self.low_mode.step}: a low step gains {gain:.2f} full ones")

    def finish_epoch(self) -> None:
        loss = self.loss_sum.item() / self.steps
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"training loss is {loss} in epoch {self.epoch + 1}; give a smaller {setting('lr')} (now "
                f"{self.settings.lr}), or {setting('warmup_epochs')}"
            )
        if self.settings.precise_bn and self.epoch == self.settings.epochs - 1:
            count = min(self.settings.precise_bn, self.steps)
            images = (images for images, _ in self.batches(self.epoch, 0))
            recompute_statistics(self.ema.model if self.ema else self.plain, images, count)
        accuracy = evaluate(self.validated, self.splits, self.settings, self.device)
        total = self.seconds + (self.records[-1].total_seconds if self.records else 0.0)
        rate = float(self.optimizer.param_groups[0]["lr"])
        loading = self.loading.seconds()
        record = EpochRecord(self.epoch, self.seconds, total, loss, accuracy, self.mode_steps, rate, loading)
        self.records.append(record)
        self.reporter.epoch(record)
        self.epoch += 1
        self.start_epoch()

    def save(self) -> None:
        if self.folder is None:
            return
        state = {
            "identity": self.identity,
            "epoch": self.epoch,
            "step": self.step,
            "mode_steps": dict(self.mode_steps),
            "seconds": self.seconds,
            "loading_seconds": self.loading.seconds(),
            "loss_sum": self.loss_sum.cpu(),
            "compile_seconds": self.compile_seconds,
            "records": [record.to_dict() for record in self.records],
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "schedule": self.low_mode.schedule_state() if self.low_mode is not None else {},
            "draws": DRAWS,
            "rng": rng_state(),
            **({} if self.ema is None else {"ema": self.ema.state_dict()}),
        }
        save_checkpoint(self.folder.path, self.net.state_dict(), state)
        self.folder.write_metrics({self.label: self.records})

    def load(self, folder: RunFolder) -> None:
        saved = load_checkpoint(folder.path, partial(check_state, steps=self.steps))
        for problem in saved.damage:
            self.reporter.say(f"{problem}; going on from {saved.folder.name} instead")
        state = saved.state
        require_same_run(state["identity"], self.identity, folder.path)
        load_weights(self.net, saved)
        with fitting_state(saved.folder):
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.low_mode is not None:
                self.low_mode.load_schedule_state(state["schedule"])
            set_rng_state(state["rng"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
        self.epoch, self.step = state["epoch"], state["step"]
        steps = unfinished_steps(state)
        self.mode_steps = {mode: steps.get(mode, 0) for mode in self.mode_steps}
        self.seconds, self.compile_seconds = state["seconds"], state["compile_seconds"]
        self.loading.restart(state.get("loading_seconds", 0.0))
        self.loss_sum = state["loss_sum"].to(self.loss_sum)
        self.records = [EpochRecord.from_dict(record) for record in state["records"]]
        done = self.epoch >= self.settings.epochs
        where = (
            f"all {self.epoch} epochs are done" if done else f"going on from epoch {self.epoch + 1}, step {self.step}"
        )
        self.reporter.say(f"{where} ({saved.folder})")
        if not done and state.get("draws") != DRAWS and self.splits.augmentation != UNCHANGED:
            self.reporter.say("the run began under another version's draws: its coming crops and flips are others")

    def write_failure(self, error: BaseException) -> None:
        """Leave word of why the run ended; what it has kept so far stays."""
        if self.folder is not None:
            self.folder.failed = True
        said = str(error).split("\n")[0]
        with suppress(OSError):  # the first error counts, a full disk's too
            self.write_summary("failed", reason=f"{type(error).__name__}: {said}" if said else type(error).__name__)

    def write_summary(self, status: str, result: RunResult | None = None, reason: str | None = None) -> None:
        if self.folder is None:
            return
        self.folder.write_summary(
            {
                "status": status,
                **({} if reason is None else {"reason": reason}),
                "label": self.label,
                **self.identity,
                "settings": self.settings.to_dict(),
                "data": {"spec": self.splits.name, "on": self.data_on, **self.identity["data"]},
                **environment(self.device),
                "results": result.summary() if result is not None else None,
            }
        )
