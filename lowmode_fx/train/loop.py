"""Algorithm 1 of the paper as a loop: for each step a mode, a forward and backward pass in it, one update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import nn

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.train.checkpoint import has_checkpoint
from lowmode_fx.train.cudnn import benchmarking
from lowmode_fx.train.evaluate import check_outputs, evaluate
from lowmode_fx.train.events import Events
from lowmode_fx.train.interrupts import Interrupts
from lowmode_fx.train.measuring import make_statistics_precise, measure_agreement, told_of_option
from lowmode_fx.train.names import EMA
from lowmode_fx.train.precise_bn import require_fvcore
from lowmode_fx.train.ranks import Agreement
from lowmode_fx.train.records import EpochRecord, RunResult
from lowmode_fx.train.resume import load, save
from lowmode_fx.train.run import Run
from lowmode_fx.train.run_folder import RunFolder
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.train.splits import DataSplits
from lowmode_fx.train.warmup import modes_to_come, warm_up
from lowmode_fx.utils.devices import synchronize
from passes.spelling import setting


class TrainingDivergedError(ValueError):
    """The training loss is no longer finite."""


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
    """Train ``model`` and validate it after each epoch.

    In a process group (``torchrun``) the ranks share each batch of ``settings.batch_size``, and the first rank writes.

    Args:
        model: A ``LowModeModel``, or any other module, which then trains in full-mode only.
        splits: The data.
        settings: How the run trains.
        folder: Where the run is written: a checkpoint and ``metrics.csv`` after each epoch, ``summary.json`` and
            ``curves.png`` at the end. SIGINT, SIGTERM and SIGHUP save a checkpoint and end the run.
        label: Name of the run in its files and its output.
        resume: Continue from the folder's checkpoint. On a CPU the result equals, bit for bit, that of a run that was
            never interrupted. In a folder without a checkpoint a new run starts, and a line says so.
        identity: Plain values, such as the model's name, that the summary shows and that a checkpoint must share, as it
            must share configuration, schedule, data and settings.
        console: Where epochs are printed; by default standard output.
        quiet: Whether nothing is printed.

    Returns:
        One record per epoch, and the test accuracy if there is a test set.

    Raises:
        ValueError: The model has no output for each class, the batch size is above the size of the training set or
            can't be shared evenly by the ranks, the checkpoint is of another run, or the loss is not finite.
        OSError: A file can't be written.
    """
    return _Loop(model, splits, settings, folder, label, identity or {}, console, quiet).run(resume)


class _Loop(Run):
    """Epoch after epoch of a run."""

    def run(self, resume: bool) -> RunResult:
        check_outputs(self.net, self.splits, self.settings, self.device)
        if self.settings.precise_bn:
            with told_of_option(self.settings.precise_bn):
                require_fvcore()
        folder = self.folder
        held = nullcontext() if folder is None or not self.writes else folder.held()
        with benchmarking(self.settings.cudnn_benchmark, self.device, self.reporter.say), held:
            # What the model draws (dropout) doesn't depend on how it was built; each rank draws its own.
            torch.manual_seed(self.settings.seed + self.ranks.rank)
            if resume and folder is not None:
                if self.ranks.from_first(partial(has_checkpoint, folder.path)):
                    load(self, folder)
                else:
                    self.reporter.say(f"nothing to resume in {folder.path}: a new run starts")
            self.write_summary("running")
            try:
                return self.train()
            except BaseException as error:
                self.write_failure(error)
                raise

    def train(self) -> RunResult:
        """Epoch after epoch, up to the last one or a signal."""
        interrupted = stop = 0
        left = self.epoch < self.settings.epochs
        place = self.folder.path if self.folder is not None and self.writes and left else None
        done = sum(sum(record.steps.values()) for record in self.records)
        self.events = Events(place, done, self.reporter.say)
        with Interrupts() as interrupts, self.reporter, closing(Agreement(self.ranks)) as agreement, self.events:
            self.reporter.when_closed(interrupts.output_closed)
            if left:
                self.warm_up()
            while self.epoch < self.settings.epochs and not stop:
                if self.train_epoch(interrupts, agreement):
                    self.finish_epoch()
                save(self)
                stop = agreement.finish(interrupts.received)
            if self.epoch < self.settings.epochs:
                interrupted = stop
            tested = None if interrupted else self.test()
        result = RunResult(self.label, tuple(self.records), self.compile_seconds, interrupted, tested)
        self.write_summary("interrupted" if interrupted else "complete", result)
        if self.folder is not None and self.writes:
            if self.ema is not None:
                self.ema.write(self.folder.path / EMA)
            self.folder.write_metrics({self.label: self.records})
            title = f"{self.identity.get('model', type(self.net).__name__)} on {self.splits.name}"
            self.folder.write_curves({self.label: self.records}, title=title)
        return result

    def test(self) -> float | None:
        """The accuracy on the images that no epoch was validated on, where there are some."""
        if self.splits.test is None:
            return None
        try:
            tested = evaluate(self.validated, replace(self.splits, val=self.splits.test), self.settings, self.device)
        except ValueError as error:  # a file that can't be read: the run is complete all the same
            self.reporter.say(f"no test accuracy: {error}")
            return None
        self.events.test(tested)
        return tested

    def warm_up(self) -> None:
        """Pay for compilation, and whatever else only first steps cost, before the clock starts."""
        if self.settings.compile:
            self.reporter.say("compiling …")
        images, labels = next(self.batches(self.epoch, 0))
        forwards: list[Callable[[torch.Tensor], Any]] = [self.forward]
        if self.low_mode is not None:
            modes = modes_to_come(self.low_mode, self.settings.epochs, self.steps, self.epoch)
            forwards = [partial(self.forward_in, mode) for mode in modes]
            sizes = [self.low_mode.batch_size_in(mode, len(images)) for mode in modes]
        else:
            sizes = [len(images)]
        passes = [
            partial(self.backward, forward, _repeated(images, size), _repeated(labels, size))
            for forward, size in zip(forwards, sizes, strict=True)
        ]
        seconds = warm_up(self.net, self.device, passes)
        if self.settings.compile:
            self.compile_seconds += seconds
            self.reporter.say(f"compiled in {self.compile_seconds:.1f} s (not part of the training time)")

    def forward_in(self, mode: Mode, images: torch.Tensor) -> Any:
        """One forward in a mode that counts no step, through what shards the model."""
        assert self.low_mode is not None
        if not self.sharded:
            return self.low_mode.run(mode, images)
        with self.low_mode.in_mode(mode):
            return self.low_mode(images)

    def backward(self, forward: Callable[[torch.Tensor], Any], images: torch.Tensor, labels: torch.Tensor) -> None:
        """One forward and backward pass, which no update follows."""
        dtype = self.settings.autocast_dtype()
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            loss = self.criterion(forward(images), labels)
        self.scaler.scale(loss).backward()

    def train_epoch(self, interrupts: Interrupts, agreement: Agreement) -> bool:
        """The epoch's steps from ``self.step`` on, up to its end or a signal. Returns whether the epoch is over."""
        self.net.train()
        if self.low_mode is not None:
            self.low_mode.set_epoch(self.epoch)
        synchronize(self.device)
        start = time.perf_counter()
        coming = self.epoch_steps(self.epoch, self.low_mode.step if self.low_mode else 0, self.taken)
        end = self.step + len(coming)
        for images, labels in self.loading.timed(self.coming_batches()):
            measure_agreement(self)
            began = self.step_clock.begin()
            self.loss_sum += self.train_step(images, labels)
            if self.ema is not None:
                self.ema.update()
            mode = str(self.low_mode.last_mode if self.low_mode else Mode.FULL)
            self.step_clock.end(mode, began)
            self.mode_steps[mode] += 1
            self.step += 1
            before = self.taken // self.settings.batch_size
            self.taken += len(images) * self.ranks.size
            # Rates follow the images seen: a larger batch moves them by as many full steps as it has images for.
            passed = self.taken // self.settings.batch_size if self.step < end else self.steps
            self.learning_rate.step(passed - before)
            self.reporter.step(self.epoch, passed - 1)
            if agreement.next(interrupts.received):
                break
        synchronize(self.device)
        self.seconds += time.perf_counter() - start
        return self.step == end

    def finish_epoch(self) -> None:
        loss = self.ranks.sum(self.loss_sum).item() / self.ranks.size / self.step
        self.ranks.share_buffers(self.net)
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"training loss is {loss} in epoch {self.epoch + 1}; give a smaller {setting('lr')} (now "
                f"{self.settings.lr}), or {setting('warmup_epochs')}"
            )
        make_statistics_precise(self)
        accuracy = evaluate(self.validated, self.splits, self.settings, self.device)
        total = self.seconds + (self.records[-1].total_seconds if self.records else 0.0)
        self.learning_rate.finish_epoch(accuracy)
        record = EpochRecord(
            self.epoch,
            self.seconds,
            total,
            loss,
            accuracy,
            self.mode_steps,
            self.learning_rate.rate,
            self.loading.seconds(),
            self.step_clock.seconds(),
        )
        self.records.append(record)
        self.reporter.epoch(record)
        self.events.epoch(record)
        self.epoch += 1
        self.start_epoch()


def _repeated(values: torch.Tensor, count: int) -> torch.Tensor:
    """So many values (count, …), over and over the ones that there are."""
    return values if len(values) == count else torch.cat([values] * -(-count // len(values)))[:count]
