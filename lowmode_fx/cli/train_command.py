"""``lowmode-fx train``: options to settings, then the loop."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from lowmode_fx.cli.ladder_options import build_modes, low_mode_configs, read_ladder
from lowmode_fx.cli.models import create_model
from lowmode_fx.cli.options import (
    LOW_MODE,
    CriterionName,
    Data,
    DataName,
    ImageChannels,
    ImageSize,
    Low,
    ModelName,
    Preset,
    low_mode_options,
    spelled_as_options,
)
from lowmode_fx.cli.schedule_options import ladder_epochs, make_schedule, read_tuning, schedule_kind
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.rung_names import rung_names
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.schedules import LadderSchedule, Schedule, StatefulSchedule, mode_fractions
from lowmode_fx.train.batches import steps_per_epoch
from lowmode_fx.train.data import load_data
from lowmode_fx.train.loop import train as train_model
from lowmode_fx.train.loss import make_criterion
from lowmode_fx.train.placement import images_on
from lowmode_fx.train.ranks import Ranks, joined
from lowmode_fx.train.run_folder import RunFolder
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.utils.allocator import keep_freed_memory
from lowmode_fx.utils.validation import as_choice

# One panel of --help each.
Rate = partial(typer.Option, rich_help_panel="Optimisation")
Run = partial(typer.Option, rich_help_panel="Run")


# A classifier returns no maps that could be restored.
@low_mode_options(*(name for name in LOW_MODE if name != "restore_output"))
@joined()
def train(
    model: ModelName,
    data: DataName,
    low: Mapping[str, Any],
    preset: Preset = "",
    image_size: ImageSize = None,
    in_chans: ImageChannels = 3,
    workers: Annotated[int | None, Data(help="Loaders, for sets above 4 GiB.")] = None,
    data_on: Annotated[
        str | None, Data(help="Where all images lie: device, host, or auto, by what is free. (default auto)")
    ] = None,
    tuned: Annotated[Path | None, Low(help="What `lowmode-fx tune` wrote. Other options win over it.")] = None,
    low_weight: Annotated[float | None, Low(help="Factor on the gradients of low steps. (default 1)")] = None,
    ladder: Annotated[
        str | None, Low(help="Several low modes by ratio, each with its epochs, full-mode (1) last: 2x10,4/3x6,1x3.")
    ] = None,
    shares: Annotated[str | None, Low(help="Of the epochs, for --ladder without them: 0.5,0.3,0.2.")] = None,
    schedule: Annotated[
        str | None, Low(help="bernoulli, periodic, agreement or ladder. (default bernoulli, or --ladder's)")
    ] = None,
    p: Annotated[
        str | None,
        Low(help="Share of low steps: a number, or one an epoch: 0.8,0.5,0 or 0.8x15,0x15."),
    ] = None,
    tail: Annotated[float | None, Low(help="Share of the epochs, at the end, that are full.")] = None,
    period: Annotated[int, Low(help="Of --schedule periodic; its last step is low.")] = 2,
    measure_every: Annotated[int, Low(help="Steps between the measurements of --schedule agreement.")] = 500,
    hold_epochs: Annotated[int | None, Low(help="Full epochs after each change of rate. (default epochs/50)")] = None,
    full_only: Annotated[bool, Low("--full-only", help="The baseline.")] = False,
    epochs: Annotated[int | None, Rate(help="(default 30)")] = None,
    batch_size: Annotated[int | None, Rate(help="(default 125)")] = None,
    lr: Annotated[float | None, Rate(help="(default 0.1)")] = None,
    lr_schedule: Annotated[str | None, Rate(help="milestones, cosine, onecycle.")] = None,
    milestones: Annotated[
        str | None, Rate(help="Epochs, from 0, at which the rate falls: 80,120. (default 40 %, 60 %)")
    ] = None,
    warmup_epochs: Annotated[int | None, Rate(help="(default 0)")] = None,
    weight_decay: Annotated[float | None, Rate(help="(default 0.0005)")] = None,
    momentum: Annotated[float | None, Rate(help="(default 0.9)")] = None,
    nesterov: Annotated[bool | None, Rate("--nesterov")] = None,
    label_smoothing: Annotated[float | None, Rate(help="(default 0)")] = None,
    criterion: CriterionName = None,
    class_weights: Annotated[
        str | None, Rate(help="In the loss: balanced, or a number for each class: 1,1,5. (default 1)")
    ] = None,
    precise_bn: Annotated[int | None, Rate(help="Batches for running statistics at the end. (default 0)")] = None,
    autocast: Annotated[str | None, Rate(help="none, bf16 or fp16.")] = None,
    seed: Annotated[int | None, Run(help="Of weights, order, crops, modes. (default 0)")] = None,
    device: Annotated[str | None, Run(help="auto, cpu, cuda, cuda:1, …")] = None,
    compile: Annotated[bool | None, Run("--compile/--no-compile")] = None,
    out: Annotated[Path | None, Run(help="Run folder. (default runs/MODEL-DATA)")] = None,
    resume: Annotated[bool, Run("--resume", help="Go on in the run folder.")] = False,
    overwrite: Annotated[bool, Run("--overwrite", help="Replace its run.")] = False,
) -> None:
    """Train a model by Algorithm 1: some steps on downsampled images with pooled kernels, the others in full.

    Leaves metrics.csv, summary.json, curves.png and a checkpoint in the run folder. Interrupted (Ctrl-C, SIGTERM), it
    saves a checkpoint; the same command with --resume goes on from there. Several processes share the batches:
    torchrun --nproc-per-node=2 --no-python -- lowmode-fx train ...
    """
    if preset:
        as_choice("preset", preset, ("paper",))
    plan = None if ladder is None else read_ladder(ladder)
    kind = schedule_kind(schedule, plan, shares)
    if plan is not None and tuned is not None:
        raise ValueError(f"--tuned {str(tuned)!r} holds its own low modes; leave it out, or --ladder {plan.text}")
    ranks = Ranks.now()
    console = Console(quiet=not ranks.is_first)
    choice = None if tuned is None else read_tuning(tuned)
    epochs = ladder_epochs(plan, epochs)
    settings = _settings(
        preset,
        epochs=epochs if choice is None or epochs is not None else choice.epochs,
        batch_size=batch_size,
        lr=lr,
        lr_schedule=lr_schedule,
        milestones=None if milestones is None else _integers("milestones", milestones),
        warmup_epochs=warmup_epochs,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov,
        label_smoothing=label_smoothing,
        criterion=criterion,
        class_weights=None if class_weights is None else _weights(class_weights),
        precise_bn=precise_bn,
        autocast=autocast,
        seed=seed,
        device=device,
        compile=compile,
        workers=workers,
        data_on=data_on,
    )
    bases = (preset,) if choice is None else choice.configs
    configs = [config for base in bases for config in low_mode_configs(base, plan, low)]
    chosen = make_schedule(
        kind,
        settings,
        choice,
        p=p,
        tail=tail,
        period=period,
        hold_epochs=hold_epochs,
        every=measure_every,
        paper=preset == "paper",
        plan=plan,
        shares=shares,
        modes=[*(str(mode) for mode, _ in rung_names(configs)), str(Mode.FULL)],
    )
    late = [milestone for milestone in settings.milestones if milestone >= settings.epochs]
    if settings.lr_schedule == "milestones" and late:
        falls = ", ".join(map(str, late))
        _print(console, f"warning: the rate's falls at {falls} lie beyond the run's {settings.epochs} epochs")
    if settings.autocast == "fp16" and settings.torch_device().type == "cpu":
        _print(console, "warning: fp16 is slow on a CPU; give --autocast bf16")
    weight = low_weight if low_weight is not None else choice.low_weight if choice else 1.0
    torch_device = settings.torch_device()
    if torch_device.type == "cpu":
        keep_freed_memory()
    path = out or Path("runs") / re.sub(r"[^\w.-]+", "-", f"{model}-{data.partition(':')[0]}{'-full' * full_only}")
    folder = ranks.from_first(partial(RunFolder.open, path, resume=resume, overwrite=overwrite))

    make_criterion(settings.criterion, settings.label_smoothing)  # what it refuses is told before images are decoded
    splits = load_data(data, image_size, in_chans, in_memory=settings.data_on == "device")
    steps = steps_per_epoch(splits.train, settings.batch_size)
    channels, height, width = splits.image_shape
    sizes = f"{len(splits.train)} + {len(splits.val)} images of {channels}×{height}×{width}"
    together = images_on(settings.data_on, splits, torch_device) == "device"
    where = f"{model} and images on {torch_device}" if together else f"{model} on {torch_device}, images on the host"
    _print(console, f"{data}: {sizes}, {splits.num_classes} classes; {where}")
    for note in splits.notes:
        _print(console, f"note: {note}")
    torch.manual_seed(settings.seed)
    side = height if height == width else None
    built = create_model(model, num_classes=splits.num_classes, in_chans=in_chans, image_size=side)
    net: torch.nn.Module = built.to(torch_device)
    if not full_only:
        example = torch.randn(2, channels, height, width, device=torch_device)
        modes = build_modes(net, example, configs)
        net = LowModeModel(modes, chosen, low_weight=weight, compile=settings.compile)
        for line in _about_low_modes(modes, chosen, settings, steps):
            _print(console, line)
    label = "full-mode" if full_only else "low-mode" if len(configs) == 1 else "ladder"
    identity = {"model": model}
    result = train_model(net, splits, settings, folder, label=label, resume=resume, identity=identity, console=console)
    if result.interrupted:
        name = signal.Signals(result.interrupted).name
        _print(
            console,
            f"interrupted by {name}; the same command with --resume{' instead of --overwrite' * overwrite} goes on",
        )
        raise typer.Exit(128 + result.interrupted)
    accuracy = f"validation accuracy {result.final_accuracy:.2%} (best {result.best_accuracy:.2%})"
    if result.test_accuracy is not None:
        accuracy = f"test accuracy {result.test_accuracy:.2%}, {accuracy}"
    compiling = f" and {result.compile_seconds:.1f} s of compilation" if settings.compile else ""
    loading = f"{result.loading_share:.1%} of it for images"
    _print(console, f"{accuracy} after {result.train_seconds:.1f} s of training ({loading}){compiling}; see {path}")


def _about_low_modes(ladder: Ladder, schedule: Schedule, settings: TrainSettings, steps: int) -> Iterator[str]:
    """What a user should know of the low modes that are about to run, a line each."""
    epochs = settings.epochs
    fractions = None if isinstance(schedule, StatefulSchedule) else mode_fractions(schedule, epochs, steps)
    shares = {ladder.resolve(mode): share for mode, share in (fractions or {}).items()}
    for rung in ladder.rungs:
        about = f"about {shares.get(rung.mode, 0):.0%} of {epochs * steps} steps"
        how_many = "as many steps as measuring says" if fractions is None else about
        yield f"{rung.mode}-mode: {len(rung.report.pooled)} convolutions with pooled kernels; {how_many}"
    several = len(ladder.rungs) > 1
    for rung in ladder.rungs:
        of = f"{rung.mode}-mode: " if several else ""
        yield from (f"note: {of}{spelled_as_options(note)}" for note in rung.report.notes)
    if fractions is None:
        return
    last = {schedule.mode(step, epochs - 1) for step in range((epochs - 1) * steps, epochs * steps)}
    isolated = any(rung.config.batchnorm == "isolate" for rung in ladder.rungs)
    if last != {Mode.FULL} and isolated and not settings.precise_bn:
        tail = "full epochs at the end" if isinstance(schedule, LadderSchedule) else "--tail 0.2"
        yield f"note: running statistics lag behind the last epoch's low steps; give {tail} or --precise-bn 100"
    if set(fractions) == {Mode.FULL}:
        yield "warning: no step is in low-mode; give a larger --p, fewer --hold-epochs or more --epochs"


def _settings(preset: str, **given: Any) -> TrainSettings:
    """The preset with the options given. Without either, the rate falls where the paper's does: at 40 and 60 %."""
    explicit = {name: value for name, value in given.items() if value is not None}
    if preset == "paper":
        return TrainSettings.paper(**explicit)
    settings = TrainSettings(**explicit)
    if settings.lr_schedule != "milestones" or "milestones" in explicit:
        return settings
    falls = sorted({round(settings.epochs * share) for share in (0.4, 0.6)} - {0, settings.epochs})
    return replace(settings, milestones=tuple(falls))


def _weights(text: str) -> str | tuple[float, ...]:
    if text == "balanced":
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--class-weights {text!r} is no list of numbers; give balanced, or such as 1,1,5") from None


def _integers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"--{name} {text!r} is no list of epochs; give integers such as 80,120") from None


def _print(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
