"""What ``lowmode-fx train`` does once its options are known to be right: data, model, modes, the loop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from lowmode_fx.cli.interruption import resuming
from lowmode_fx.cli.ladder_options import build_modes
from lowmode_fx.cli.measured_on import check_measured_on, measured_on
from lowmode_fx.cli.run_options import records_plan
from lowmode_fx.cli.starting_weights import StartingWeights
from lowmode_fx.cli.tunings import is_planned, other_plan
from lowmode_fx.lowering.blocks import find_blocks
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.report import about_points
from lowmode_fx.runtime.batch_growth import LrRule
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.schedules import DrawnSchedule, LadderSchedule, Schedule, StatefulSchedule, mode_fractions
from lowmode_fx.train.augmenting import augmented
from lowmode_fx.train.batches import steps_per_epoch
from lowmode_fx.train.checkpoint import has_checkpoint
from lowmode_fx.train.data import load_data
from lowmode_fx.train.data_spec import HELD, read_spec
from lowmode_fx.train.loop import train
from lowmode_fx.train.loss import make_criterion
from lowmode_fx.train.optimizer import check_optimizer
from lowmode_fx.train.placement import images_on
from lowmode_fx.train.ranks import Ranks, joined
from lowmode_fx.train.recipe import read_recipe
from lowmode_fx.train.run_folder import RunFolder
from lowmode_fx.train.same_run import OtherRunError
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.utils.allocator import keep_freed_memory


@dataclass(frozen=True)
class TrainRun:
    """A run as the command line describes it. low_mode: its configs, none for a run in full-mode alone.

    start_from: the weights of its first step. workers_given: whether a number of loaders was asked for. measured_on:
    what the tuning in ``tuned`` holds for. given: the names of the options that are given. papers: the low mode is the
    paper's or a tuning's, as asked for by name.
    """

    model: str
    data: str
    image_size: int | None
    in_chans: int
    settings: TrainSettings
    configs: Sequence[LowModeConfig]
    schedule: Schedule
    low_weight: float | Mapping[str, float]
    batch_multiplier: float | Mapping[str, float] | Literal["pixels"]
    lr_rule: LrRule
    full_only: bool
    start_from: StartingWeights
    workers_given: bool
    resume: bool
    tuned: Path | None
    given: Collection[str]
    papers: bool
    measured_on: Mapping[str, Any]

    def start(self, folder: RunFolder, console: Console) -> int:
        """Train, and say how it went and where the results are; the exit status."""
        settings = self.settings
        device = settings.torch_device()
        check_optimizer(settings.optimizer)
        make_criterion(settings.criterion, settings.label_smoothing)  # its errors come before images are decoded
        if device.type == "cpu":
            keep_freed_memory()
            if settings.autocast == "fp16":
                say(console, "warning: fp16 is slow on a CPU; give --autocast bf16")
        splits = load_data(
            self.data,
            self.image_size,
            self.in_chans,
            in_memory=settings.data_on == "device",
            workers=settings.workers if self.workers_given else None,
            train_size=read_recipe(settings.augment).held_side(self.image_size),
        )
        if self.tuned is not None:
            if not self.measured_on:
                say(console, f"note: {self.tuned} doesn't say what it was measured on: it is of an older version")
            check_measured_on(self.tuned, self.measured_on, measured_on(self.model, splits))
            rate = self.measured_on.get("lr", self.settings.lr)
            if rate != self.settings.lr:
                say(console, f"note: {self.tuned} was measured at --lr {rate:g}, and this run has {self.settings.lr:g}")
        sharded = settings.fsdp and Ranks.now().size > 1
        if settings.fsdp and not sharded:
            say(console, "note: --fsdp does nothing here: this is one process; start several with torchrun")
        if sharded and self.full_only and settings.compile:
            say(console, "note: --fsdp with --full-only runs uncompiled")
        if self.workers_given and read_spec(self.data).kind in HELD:
            say(console, f"note: --workers {settings.workers} does nothing here: nothing is decoded")
        steps = steps_per_epoch(splits.train, settings.batch_size)
        channels, height, width = splits.image_shape
        held = "" if splits.train.shape == splits.image_shape else f" (held at {splits.train.shape[-1]})"
        sizes = f"{len(splits.train)} + {len(splits.val)} images of {channels}×{height}×{width}{held}"
        together = images_on(settings.data_on, augmented(splits, settings.augment), device) == "device"
        where = f"and images on {device}" if together else f"on {device}, images on the host"
        say(console, f"{self.data}: {sizes}, {splits.num_classes} classes; {self.model} {where}")
        for note in splits.notes:
            say(console, f"note: {note}")
        torch.manual_seed(settings.seed)
        side = height if height == width else None
        resumes = self.resume and Ranks.now().from_first(partial(has_checkpoint, folder.path))
        if self.start_from.pretrained and not resumes:
            say(console, "loading pretrained weights …")
        built, splits, lines = self.start_from.build(
            self.model, splits, in_chans=self.in_chans, image_size=side, resumes=resumes
        )
        for line in lines:
            say(console, line)
        net: torch.nn.Module = built.to(device)
        if not self.full_only:
            modes = build_modes(net, torch.randn(2, channels, height, width, device=device), self.configs)
            # Blocks by name: sharded, they are compiled one by one also where no two are equal.
            compiled: Any = find_blocks(net) or "blocks" if settings.compile and sharded else settings.compile
            net = LowModeModel(
                modes,
                self.schedule,
                low_weight=self.low_weight,
                batch_multiplier=self.batch_multiplier,
                lr_rule=self.lr_rule,
                compile=compiled,
            )
            for line in about_low_modes(modes, self.schedule, settings, steps):
                say(console, line)
            if not self.papers and (pooled := about_points(rung.report for rung in modes.rungs)):
                say(console, f"note: {pooled}, and --ladder 2,4/3,1 for a schedule that gains")
            for line in about_batches(net, settings.batch_size, asked=self.batch_multiplier != 1):
                say(console, line)
        label = "full-mode" if self.full_only else "low-mode" if len(self.configs) == 1 else "ladder"
        identity = {"model": self.model, **self.start_from.identity()}
        try:
            result = train(
                net, splits, settings, folder, label=label, resume=self.resume, identity=identity, console=console
            )
        except OtherRunError as error:
            if self.tuned is None or error.low_mode is None or not is_planned(error.low_mode, self.given):
                raise
            raise other_plan(self.tuned, error.difference, folder.path, records_plan(folder.path)) from error
        except Exception:
            if folder.failed and has_checkpoint(folder.path):
                say(console, f"kept: the checkpoint of the last whole epoch; {resuming(folder.path)} goes on from it")
            raise
        if result.interrupted:
            name = signal.Signals(result.interrupted).name
            say(console, f"interrupted by {name}; {resuming(folder.path)} goes on")
            return 128 + result.interrupted
        accuracy = f"validation accuracy {result.final_accuracy:.2%} (best {result.best_accuracy:.2%})"
        if result.test_accuracy is not None:
            accuracy = f"test accuracy {result.test_accuracy:.2%}, {accuracy}"
        loading = f"{result.loading_share:.1%} of it for images"
        compiling = f" and {result.compile_seconds:.1f} s of compilation" if settings.compile else ""
        took = f"{result.train_seconds:.1f} s of training ({loading}){compiling}"
        say(console, f"{accuracy} after {took}; see {folder.path}")
        return 0


def start_together(
    run: TrainRun, folder: RunFolder | None, open_folder: Callable[[], RunFolder], lines: Sequence[str]
) -> int:
    """Start the run in the process group of ``torchrun``, if there is one; the exit status.

    folder: ``None`` where the first rank is to open it. lines: to be said first.
    """
    with joined():
        ranks = Ranks.now()
        opened = ranks.from_first(open_folder) if folder is None else folder
        console = Console(quiet=not ranks.is_first)
        for line in lines:
            say(console, line)
        return run.start(opened, console)


def about_low_modes(ladder: Ladder, schedule: Schedule, settings: TrainSettings, steps: int) -> Iterator[str]:
    """What a user should know of the low modes that are about to run, a line each."""
    epochs = settings.epochs
    fractions = None if isinstance(schedule, StatefulSchedule) else mode_fractions(schedule, epochs, steps)
    shares = {ladder.resolve(mode): share for mode, share in (fractions or {}).items()}
    for rung in ladder.rungs:
        about = f"about {shares.get(rung.mode, 0):.0%} of {epochs * steps} steps"
        if isinstance(schedule, LadderSchedule) and schedule.epochs is not None and not schedule.hold_epochs:
            about = f"{round(shares.get(rung.mode, 0) * epochs)} of {epochs} epochs"
        how_many = "as many steps as measuring says" if fractions is None else about
        count = len(rung.report.pooled)
        yield f"{rung.mode}-mode: {count} convolution{'s' * (count != 1)} with pooled kernels; {how_many}"
    several = len(ladder.rungs) > 1
    for rung in ladder.rungs:
        of = f"{rung.mode}-mode: " if several else ""
        yield from (f"note: {of}{note}" for note in rung.report.notes)
    if fractions is None:
        return
    last = {schedule.mode(step, epochs - 1) for step in range((epochs - 1) * steps, epochs * steps)}
    isolated = any(rung.config.batchnorm == "isolate" for rung in ladder.rungs)
    if last != {Mode.FULL} and isolated and settings.precise_bn == 0:
        tail = "full epochs at the end" if isinstance(schedule, LadderSchedule) else "--tail 0.2"
        yield f"note: running statistics lag behind the last epoch's low steps; give {tail}, or leave out --precise-bn"
    isolating = (rung for rung in ladder.rungs if rung.config.batchnorm == "isolate")  # others have no such pass
    if any(rung.report.of("isolate_batchnorm").changes for rung in isolating):
        full_from = _full_from(schedule, epochs, steps)
        if 0 < full_from < epochs:
            yield (
                "note: validation runs in full-mode, whose norms only full steps adapt: its accuracy says little "
                f"before epoch {full_from + 1}"
            )
    if set(fractions) == {Mode.FULL}:
        if isinstance(schedule, LadderSchedule):
            held = ", fewer --hold-epochs" if schedule.hold_epochs else ""
            more = f"more --epochs, or more of them to low modes{held}"
        else:
            more = "a larger --p, fewer --hold-epochs or more --epochs"
        yield f"warning: no step is in low-mode; give {more}"


def _full_from(schedule: Schedule, epochs: int, steps: int) -> int:
    """The first epoch with a full step; ``epochs`` if there is none."""
    # Epochs that surely have none are skipped without a draw: they may be many, of many steps.
    likely = (
        epoch
        for epoch in range(epochs)
        if not isinstance(schedule, DrawnSchedule) or schedule.mode_probabilities(epoch).get(Mode.FULL)
    )
    full = (
        epoch
        for epoch in likely
        for step in range(epoch * steps, (epoch + 1) * steps)
        if schedule.mode(step, epoch) is Mode.FULL
    )
    return next(full, epochs)


def about_batches(net: LowModeModel, batch_size: int, asked: bool) -> Iterator[str]:
    """What a user should know of batches that grow, a line for each low mode. asked: whether they are to grow."""
    if asked and not net.batches_grow and net.batch_multiplier == "pixels":
        yield "note: --batch-multiplier pixels does nothing here: no low mode has smaller images"
    for mode in net.modes[:-1] if net.batches_grow else ():
        factor = net.rate_factor(mode)
        size = net.planned_batch_size(mode, batch_size)
        yield f"{mode}-mode: batches of {size} images, at {factor:.3g} times the learning rate"


def say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
