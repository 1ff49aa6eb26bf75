"""The state of a run between its steps: the loop advances it, checkpoints hold it, a summary reports it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.epoch_batches import check_batches, epoch_batches
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.schedules import MeasuringSchedule
from lowmode_fx.runtime.train_step import TrainStep
from lowmode_fx.train.augmenting import augmented
from lowmode_fx.train.batches import steps_per_epoch, train_batches
from lowmode_fx.train.clocks import DeviceClock, LoadingClock
from lowmode_fx.train.cost_progress import UncountedModelError, cost_progress
from lowmode_fx.train.ema import WeightAverage
from lowmode_fx.train.identity import run_identity
from lowmode_fx.train.loss import balanced_weights, make_criterion
from lowmode_fx.train.optimizer import make_optimizer
from lowmode_fx.train.placement import place_images
from lowmode_fx.train.progress import Reporter
from lowmode_fx.train.ranks import Ranks
from lowmode_fx.train.records import EpochRecord, RunResult
from lowmode_fx.train.run_folder import RunFolder, environment
from lowmode_fx.train.scheduler import LearningRate
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.train.sharded_steps import check_sharded_steps
from lowmode_fx.train.sharding import shard
from lowmode_fx.train.splits import DataSplits
from passes.spelling import setting


class Run:
    """A model in training: its data, optimizer, loss and average, the records, and the place in the epoch."""

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
        self.ranks = Ranks.now()
        self.net = model.to(self.device)
        if settings.channels_last:
            model.to(memory_format=torch.channels_last)
        self.splits, self.data_on = place_images(settings.data_on, augmented(splits, settings.augment), self.device)
        self.loading, self.step_clock = LoadingClock(self.device), DeviceClock(self.device)
        self.settings = settings
        self.folder = folder
        self.writes = folder is not None and self.ranks.is_first
        self.label = label
        self.ranks.share(settings.batch_size)
        self.steps = steps_per_epoch(splits.train, settings.batch_size)
        self.reporter = Reporter(label, settings.epochs, self.steps, console, quiet or not self.ranks.is_first)
        self.low_mode = model if isinstance(model, LowModeModel) else None
        # Before anything is warmed up at these sizes.
        images = self.steps * settings.batch_size // self.ranks.size
        check_batches(self.growing, settings.batch_size // self.ranks.size, images)
        progress = self._cost_progress()
        # What torch.compile returns is called and never saved: the module itself keeps the model's own keys.
        self.forward: Any = model
        self.sharded = settings.fsdp and self.ranks.size > 1
        if self.low_mode is None and settings.compile and not self.sharded:
            self.forward = torch.compile(model, dynamic=False)
        if self.sharded and self.low_mode is not None and isinstance(self.low_mode.schedule, MeasuringSchedule):
            name = type(self.low_mode.schedule).__name__
            raise ValueError(
                f"{name} measures on whole weights, and {setting('fsdp', True)} shards them; leave out one"
            )
        if self.sharded:
            plain = model.ladder.model if isinstance(model, LowModeModel) else model
            shard(model, plain, self.device, self.ranks.size)
            check_sharded_steps(plain.parameters(), settings)
        elif self.ranks.size > 1:
            self.forward = DistributedDataParallel(self.forward)
        self.identity = run_identity(identity, self.low_mode, splits, settings)
        # The module whose weights train: what evaluates, averages and measures looks at it.
        self.plain = model.ladder.model if isinstance(model, LowModeModel) else model
        self.optimizer = make_optimizer(self.plain, settings, self.device)
        self.learning_rate = LearningRate(self.optimizer, settings, self.steps, progress)
        self.ema = WeightAverage(self.plain, settings.ema) if settings.ema else None
        weights = settings.class_weights
        if weights == "balanced":
            weights = balanced_weights(splits.train.labels, splits.num_classes)
        self.criterion = make_criterion(settings.criterion, settings.label_smoothing, weights, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.autocast == "fp16")
        autocast = settings.autocast_dtype()
        self.train_step = TrainStep(
            self.forward,
            self.criterion,
            self.optimizer,
            autocast=autocast,
            scaler=self.scaler,
            clip_grad_norm=settings.clip_grad_norm,
        )
        self.records: list[EpochRecord] = []
        self.compile_seconds = 0.0
        self.epoch = 0
        self.start_epoch()

    def _cost_progress(self) -> tuple[float, ...] | None:
        """What the learning rate follows instead of the steps, if anything."""
        if self.low_mode is None or self.settings.lr_over != "macs":
            return None
        try:
            return cost_progress(self.low_mode, self.settings.epochs, self.steps)
        except UncountedModelError as error:
            told = str(error).partition(";")[0]
            self.reporter.say(
                f"note: {setting('lr_over', 'macs')} does nothing here, the rate follows the steps: {told}"
            )
            return None

    def start_epoch(self) -> None:
        self.step = self.taken = 0  # steps of the epoch, and their images, of all ranks
        self.mode_steps = {str(mode): 0 for mode in (self.low_mode.modes if self.low_mode else (Mode.FULL,))}
        self.seconds = 0.0
        self.loading.restart()
        self.step_clock.restart()
        # Summed on the device, in float64 where it has that: reading each loss would wait for each step.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self.loss_sum = torch.zeros((), dtype=dtype, device=self.device)

    @property
    def growing(self) -> LowModeModel | None:
        """The net, if its batches grow."""
        return self.low_mode if self.low_mode is not None and self.low_mode.batches_grow else None

    def epoch_steps(self, epoch: int, step: int, taken: int = 0) -> list[tuple[Mode, int]]:
        """Modes and sizes, over all ranks, of an epoch's batches after ``taken`` images, from ``net.step`` on."""
        share = self.settings.batch_size // self.ranks.size
        left = (self.steps * self.settings.batch_size - taken) // self.ranks.size
        coming = epoch_batches(self.growing, share, left, drop_last=True, step=step, epoch=epoch)
        return [(mode, size * self.ranks.size) for mode, size in coming]

    def coming_batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's (images, labels) of the steps to come in this epoch."""
        return self.batches(self.epoch, self.step, self.growing, self.taken // self.ranks.size)

    def batches(
        self, epoch: int, first: int, net: LowModeModel | None = None, taken: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's (images, labels) of an epoch, from its step ``first`` on, as ``train_batches`` gives them."""
        return train_batches(
            self.splits,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            epoch=epoch,
            device=self.device,
            first=first,
            workers=self.settings.workers,
            ranks=self.ranks,
            net=net,
            taken=taken,
            channels_last=self.settings.channels_last,
        )

    @property
    def validated(self) -> nn.Module:
        """What is validated and tested: the averaged weights, where there is an average."""
        return self.ema.model if self.ema else self.net

    def write_failure(self, error: BaseException) -> None:
        """Leave word of why the run ended; what it has kept so far stays."""
        if self.folder is not None:
            self.folder.failed = True
        said = str(error).split("\n")[0]
        with suppress(OSError):  # the first error counts, a full disk's too
            self.write_summary("failed", reason=f"{type(error).__name__}: {said}" if said else type(error).__name__)

    def write_summary(self, status: str, result: RunResult | None = None, reason: str | None = None) -> None:
        if self.folder is None or not self.writes:
            return
        self.folder.write_summary(
            {
                "status": status,
                **({} if reason is None else {"reason": reason}),
                "label": self.label,
                **self.identity,
                **({} if self.folder.options is None else {"options": dict(self.folder.options)}),
                "settings": self.settings.to_dict(),
                "data": {"spec": self.splits.name, "on": self.data_on, **self.identity["data"]},
                **environment(self.device),
                "ranks": self.ranks.size,
                "results": result.summary() if result is not None else None,
            }
        )
