"""``lowmode-fx train``: options to settings, then the loop."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lowmode_fx.cli import batch_options
from lowmode_fx.cli.batch_options import BatchMultiplier, LrRule, batches_grow, planned_rule, read_batch_multiplier
from lowmode_fx.cli.default_ladder import modes_of
from lowmode_fx.cli.idle_options import idle_options
from lowmode_fx.cli.interruption import told_what_is_left
from lowmode_fx.cli.ladder_options import low_mode_configs, read_ladder
from lowmode_fx.cli.measured_on import check_measured_on
from lowmode_fx.cli.model_names import check_model_name
from lowmode_fx.cli.options import (
    CHANNELS,
    LOW_MODE,
    MODEL,
    ChannelsLast,
    CriterionName,
    Data,
    DataName,
    ImageSize,
    Low,
    Preset,
    low_mode_options,
)
from lowmode_fx.cli.outputs import as_path
from lowmode_fx.cli.run_options import TUNED_PLAN, resumes_by_folder, stored_options
from lowmode_fx.cli.schedule_options import (
    ScheduleKind,
    ends_full,
    ladder_epochs,
    make_schedule,
    schedule_kind,
)
from lowmode_fx.cli.settings_options import read_class_weights, read_epochs, run_settings
from lowmode_fx.cli.starting_weights import StartingWeights
from lowmode_fx.cli.tuned_options import check_over_plan
from lowmode_fx.cli.tunings import chosen_tuning
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.rung_names import rung_names
from lowmode_fx.train.data_spec import read_spec, short_name
from lowmode_fx.train.optimizer_names import check_optimizer_name
from lowmode_fx.train.run_folder import RunFolder
from lowmode_fx.train.settings import Autocast, DataOn, LrOver, LrSchedule
from lowmode_fx.utils.validation import as_number
from passes.errors import OptionError

# One panel of --help each.
Rate = partial(typer.Option, rich_help_panel="Optimisation")
Start = partial(typer.Option, rich_help_panel="Weights to start from")
Run = partial(typer.Option, rich_help_panel="Run")


@resumes_by_folder
# A classifier returns no maps that could be restored.
@low_mode_options(*(name for name in LOW_MODE if name != "restore_output"))
def train(
    model: Annotated[str, typer.Argument(help=f"{MODEL} With --resume also a run folder.")],
    data: DataName,
    low: Mapping[str, Any],
    preset: Preset = None,
    image_size: ImageSize = None,
    in_chans: Annotated[int | None, Data(help=f"{CHANNELS} (default 3)")] = None,
    workers: Annotated[int | None, Data(min=0, max=256, help="Processes that decode images. (default 2)")] = None,
    data_on: Annotated[
        DataOn | None,
        Data(help="Where images are held; auto decides by free memory. (default auto)"),
    ] = None,
    augment: Annotated[
        str | None,
        Data(help="Augmentation: auto, none, standard, strong, or steps: resized_crop,flip,mixup=0.2. (default auto)"),
    ] = None,
    tuned: Annotated[
        Path | None,
        Low(parser=as_path, metavar="PATH", help="Plan that `lowmode-fx tune` wrote; other options override it."),
    ] = None,
    low_weight: Annotated[float | None, Low(help="Factor on the gradients of low steps. (default 1)")] = None,
    batch_multiplier: Annotated[
        str | None,
        Low(
            help="Images of a low step over a full one's: pixels, or a number, or one per low mode: 4,1.75. (default 1)"
        ),
    ] = None,
    lr_rule: Annotated[
        LrRule | None,
        Low(help="Factor on a larger batch's learning rate. (default linear; with Adam and its kin sqrt)"),
    ] = None,
    ladder: Annotated[
        str | None,
        Low(
            help="Several low modes by ratio, each with its epochs, full-mode (1) last: 2x10,4/3x6,1x3. (default, "
            "without other low-mode or schedule: 2,4/3,1 with kernels kept)"
        ),
    ] = None,
    shares: Annotated[
        str | None,
        Low(
            help="Shares of the epochs, for a --ladder without epochs. (default of three modes 0.5,0.3,0.2; of four "
            "0.3,0.4,0.1,0.2)"
        ),
    ] = None,
    schedule: Annotated[
        ScheduleKind | None,
        Low(help="Schedule of low steps. (default --ladder's; bernoulli with --p, --tail or --ratio)"),
    ] = None,
    p: Annotated[
        str | None,
        Low(help="Share of low steps: one number, or one per epoch: 0.8,0.5,0 or 0.8x15,0x15."),
    ] = None,
    tail: Annotated[float | None, Low(help="Share of the epochs that are full, at the end.")] = None,
    period: Annotated[
        int | None, Low(min=1, help="Period of --schedule periodic, in steps; the last is low. (default 2)")
    ] = None,
    measure_every: Annotated[
        int | None, Low(min=1, help="Steps between the measurements of --schedule agreement. (default 500)")
    ] = None,
    hold_epochs: Annotated[
        int | None, Low(help="Full epochs after each fall of the learning rate. (default epochs/50)")
    ] = None,
    full_only: Annotated[bool, Low("--full-only", help="Train in full-mode only, as the baseline.")] = False,
    pretrained: Annotated[
        bool, Start("--pretrained", help="Start from the weights that timm or torchvision publish; they are loaded.")
    ] = False,
    weights: Annotated[
        Path | None,
        Start(
            parser=as_path,
            metavar="PATH",
            help="Start from a state_dict's file or a run folder; a head of other classes is left out.",
        ),
    ] = None,
    epochs: Annotated[int | None, Rate(help="Number of epochs. (default 30)")] = None,
    optimizer: Annotated[
        str | None, Rate(help="Optimizer: sgd, or any of timm's: adamw, lamb, … (default sgd)")
    ] = None,
    batch_size: Annotated[int | None, Rate(help="Images per step. (default 125)")] = None,
    lr: Annotated[float | None, Rate(help="Learning rate. (default 0.1)")] = None,
    lr_schedule: Annotated[
        LrSchedule | None,
        Rate(
            "--lr-schedule",
            "--scheduler",
            help="How the learning rate falls. (default milestones; with a full tail cosine)",
        ),
    ] = None,
    lr_over: Annotated[
        LrOver | None,
        Rate(help="What a cosine or one cycle follows: steps or macs. (default steps; with a full tail macs)"),
    ] = None,
    milestones: Annotated[
        str | None, Rate(help="Epochs, from 0, at which the learning rate falls: 80,120. (default 40 %, 60 %)")
    ] = None,
    lr_gamma: Annotated[float | None, Rate(help="Factor on the learning rate at each fall. (default 0.1)")] = None,
    decay_epochs: Annotated[
        int | None, Rate(min=1, help="Epochs to each fall of step and exponential. (default a third)")
    ] = None,
    patience_epochs: Annotated[
        int | None, Rate(help="Epochs without gain before plateau lowers the rate. (default 10)")
    ] = None,
    warmup_epochs: Annotated[int | None, Rate(help="Epochs of warm-up of the learning rate. (default 0)")] = None,
    weight_decay: Annotated[float | None, Rate(help="Weight decay. (default 0.0005)")] = None,
    momentum: Annotated[float | None, Rate(help="Momentum of SGD. (default 0.9)")] = None,
    nesterov: Annotated[bool | None, Rate("--nesterov", help="Nesterov momentum, of SGD alone. (default off)")] = None,
    clip_grad_norm: Annotated[
        float | None, Rate(help="Largest total norm of a step's gradients. (default none, unclipped)")
    ] = None,
    label_smoothing: Annotated[float | None, Rate(help="Label smoothing. (default 0)")] = None,
    criterion: CriterionName = None,
    class_weights: Annotated[
        str | None, Rate(help="Class weights in the loss: balanced, or one per class: 1,1,5. (default 1)")
    ] = None,
    ema: Annotated[
        float | None, Rate(help="Decay of an average of the weights, such as 0.999. (default 0, none)")
    ] = None,
    precise_bn: Annotated[
        int | None,
        Rate(
            help="Batches that recompute running statistics at the end. (default 100 after a short full tail, else 0)"
        ),
    ] = None,
    autocast: Annotated[Autocast | None, Rate(help="Type of autocast. (default none)")] = None,
    seed: Annotated[int | None, Run(help="Random seed of weights, order, crops and modes. (default 0)")] = None,
    device: Annotated[str | None, Run(help="Device: auto, cpu, cuda, cuda:1, …")] = None,
    compile: Annotated[
        bool | None, Run("--compile/--no-compile", help="Compile each mode with torch.compile. (default --compile)")
    ] = None,
    channels_last: ChannelsLast = None,
    cudnn_benchmark: Annotated[
        bool | None,
        Run("--cudnn-benchmark", help="Let cuDNN try its algorithms and keep the fastest. (default off)"),
    ] = None,
    fsdp: Annotated[
        bool | None, Run("--fsdp", help="Shard the weights over the processes of torchrun, block by block (FSDP2).")
    ] = None,
    out: Annotated[
        Path | None, Run(parser=as_path, metavar="PATH", help="Folder of the run. (default runs/MODEL-DATA)")
    ] = None,
    resume: Annotated[
        bool, Run("--resume", help="Resume the run in its folder; without --data, in the folder named for MODEL.")
    ] = False,
    overwrite: Annotated[bool, Run("--overwrite", help="Replace the run in its folder.")] = False,
    tuned_plan: Mapping[str, Any] | None = None,  # no option: what a run that goes on has recorded of --tuned's file
) -> None:
    """Train a model up a ladder: smaller images first, the last epochs in full-mode; or as the options of low-mode say.

    Leaves metrics.csv, summary.json, curves.png and a checkpoint in the run folder. Interrupted (Ctrl-C, SIGTERM), it
    saves a checkpoint; lowmode-fx train --resume RUN goes on from there, with the options it was started with.
    Several processes share the batches: torchrun --nproc-per-node=2 --no-python -- lowmode-fx train ...

    Example: lowmode-fx train resnet18 --data folder:path/to/images --epochs 30
    """
    given = dict(locals())
    check_model_name(model)
    read_spec(data)
    start_from = StartingWeights(pretrained, weights)
    start_from.check(resume)
    asked = modes_of(given, low)
    plan = None if asked.ladder is None else read_ladder(asked.ladder)
    kind = schedule_kind(schedule, plan, shares)
    if plan is not None and tuned is not None:
        raise ValueError(f"--tuned {str(tuned)!r} holds its own low modes; leave it out, or --ladder {plan.text}")
    choice, notes = (None, []) if tuned is None else chosen_tuning(tuned, tuned_plan)
    if tuned is not None and choice is not None:
        check_measured_on(tuned, choice.measured_on, {"model": model})
    epochs = ladder_epochs(plan, epochs)
    settings = run_settings(
        preset,
        late_full=hold_epochs is None and (choice is not None or ends_full(kind, p, tail)),
        planned=kind != "agreement",
        epochs=epochs if choice is None or epochs is not None else choice.epochs,
        batch_size=batch_size,
        lr=lr,
        lr_schedule=lr_schedule,
        lr_over=lr_over,
        milestones=None if milestones is None else read_epochs("milestones", milestones),
        lr_gamma=lr_gamma,
        decay_epochs=decay_epochs,
        patience_epochs=patience_epochs,
        warmup_epochs=warmup_epochs,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov,
        clip_grad_norm=clip_grad_norm,
        label_smoothing=label_smoothing,
        criterion=criterion,
        class_weights=None if class_weights is None else read_class_weights(class_weights),
        precise_bn=precise_bn,
        optimizer=optimizer,
        ema=ema,
        autocast=autocast,
        seed=seed,
        device=device,
        compile=compile,
        channels_last=channels_last,
        cudnn_benchmark=cudnn_benchmark,
        fsdp=fsdp,
        workers=workers,
        data_on=data_on,
        augment=augment,
    )
    check_optimizer_name(settings.optimizer)
    bases = (preset,) if choice is None else choice.configs
    configs = [config for base in bases for config in low_mode_configs(base, plan, asked.low)]
    if tuned is not None and choice is not None:
        check_over_plan(tuned, choice.configs, configs, low, kind=kind, p=p, tail=tail)
    names = [str(mode) for mode, _ in rung_names(configs)]
    growth: BatchMultiplier = read_batch_multiplier(batch_multiplier, names)
    planned_for = low.get("ratio") is None and kind != "agreement"  # of other images, another batch pays
    if choice is not None and choice.batch_multiplier != 1 and batch_multiplier is None and planned_for:
        growth = choice.batch_multiplier
        if lr_rule is None and tuned is not None and not full_only and batches_grow(growth):
            lr_rule, note = planned_rule(choice.lr_rule, settings.optimizer, tuned)
            notes += [note] if note else []
    if kind == "agreement":
        problem = "needs modes before --schedule agreement decides them"
        if growth != 1:
            raise OptionError("batch_multiplier", batch_multiplier, problem, "leave one of them out")
        if settings.lr_over == "macs":
            raise OptionError("lr_over", "macs", problem, "give steps")
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
        modes=[*names, str(Mode.FULL)],
    )
    planned = choice.low_weight if choice is not None else 1.0
    factor = planned if low_weight is None else as_number("low_weight", low_weight, above=0)
    name = re.sub(r"[^\w.-]+", "-", f"{model}-{short_name(data)}{'-full' * full_only}")
    options = stored_options(
        {**given, "ladder": asked.ladder, **asked.low, "low": None, TUNED_PLAN: choice and choice.to_dict()}
    )
    place = (out or Path("runs") / name).expanduser()
    open_folder = partial(RunFolder.open, place, resume=resume, overwrite=overwrite, options=options)
    # A single process checks the folder before torch is imported; of several, the first opens it.
    folder = open_folder() if "WORLD_SIZE" not in os.environ else None
    of_run: dict[str, Any] = {"schedule": kind, "lr_schedule": settings.lr_schedule, "full_only": full_only}
    notes += [asked.note] if asked.note else []
    idle = [*notes, *idle_options(given, low, **of_run, growing=batches_grow(growth))]
    late = [milestone for milestone in settings.milestones if milestone >= settings.epochs]
    if settings.lr_schedule == "milestones" and late:
        falls = ", ".join(map(str, late))
        idle = [*idle, f"warning: the rate's falls at {falls} lie beyond the run's {settings.epochs} epochs"]
    with told_what_is_left(place):
        from lowmode_fx.cli.train_run import TrainRun, start_together

        run = TrainRun(
            model,
            data,
            image_size,
            3 if in_chans is None else in_chans,
            settings,
            configs,
            chosen,
            low_weight=factor,
            batch_multiplier=growth,
            lr_rule=batch_options.lr_rule(lr_rule, settings.optimizer),
            full_only=full_only,
            start_from=start_from,
            workers_given=workers is not None,
            resume=resume,
            tuned=tuned,
            given=frozenset(name for name, value in {**given, **low}.items() if value not in (None, False)),
            papers=preset == "paper" or tuned is not None,
            measured_on=choice.measured_on if choice is not None else {},
        )
        if status := start_together(run, folder, open_folder, idle):
            raise typer.Exit(status)
