"""``lowmode-fx probe`` and ``lowmode-fx tune``: what low steps teach on a user's model and data."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lowmode_fx.cli.batch_options import LrRule, read_one_multiplier
from lowmode_fx.cli.formats import ProbeFormat
from lowmode_fx.cli.handle_options import HandleOption, read_handles
from lowmode_fx.cli.measured_on import measured_on
from lowmode_fx.cli.model_names import check_model_name
from lowmode_fx.cli.options import (
    LOW_MODE,
    ChannelsLast,
    CriterionName,
    DataName,
    ImageChannels,
    ImageSize,
    Low,
    ModelName,
    comma_list,
    low_mode_config,
    low_mode_options,
    path_option,
)
from lowmode_fx.cli.outputs import check_output
from lowmode_fx.cli.streams import results_alone
from lowmode_fx.train.data_spec import read_spec
from lowmode_fx.train.settings import CRITERIA, MOST_EPOCHS, TrainSettings
from lowmode_fx.tuning.tried_ratios import LARGEST_RATIO, default_ratios
from lowmode_fx.utils.atomic import write_text
from lowmode_fx.utils.validation import as_number, as_share
from passes.errors import OptionError
from passes.ratios import Ratio, largest_ratio, read_ratio

Rate = partial(typer.Option, rich_help_panel="Optimisation of the short runs")
BatchSize = Annotated[int, Rate(min=1, help="Images per step.")]
LearningRate = Annotated[float, Rate(help="Learning rate.")]
Momentum = Annotated[float, Rate(help="Momentum of SGD.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed of weights and batches.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, …")]


@low_mode_options(*(name for name in LOW_MODE if name != "restore_output"))
def probe(
    model: ModelName,
    data: DataName,
    low: Mapping[str, Any],
    image_size: ImageSize = None,
    in_chans: ImageChannels = 3,
    steps: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Full steps before measuring; the first gradients say little.")
    ] = 200,
    batches: Annotated[
        int, typer.Option(min=2, max=1000, help="Number of batches that gradients are compared on.")
    ] = 4,
    batch_size: BatchSize = 125,
    lr: LearningRate = 0.05,
    momentum: Momentum = 0.9,
    criterion: CriterionName = None,
    seed: Seed = 0,
    device: Device = "auto",
    handle: HandleOption = None,
    format: Annotated[ProbeFormat, typer.Option(help="Output format.")] = "table",
    out: Annotated[Path | None, path_option(help="Write a bar chart to this PNG file.")] = None,
) -> None:
    """Print, for each kernel that low-mode would pool, the macs saved and the agreement lost if it alone is pooled.

    Example: lowmode-fx probe resnet18 --data folder:path/to/images --out probe.png
    """
    check_model_name(model)
    read_spec(data)
    if out is not None:
        check_output(out, (".png",), "PNG")
    config = low_mode_config(None, **low)
    if not config.pools_kernels:
        raise OptionError(
            "kernel_ratio", low["kernel_ratio"], "keeps all kernels, and none is to be probed", "leave it out"
        )
    settings = _settings(device, batch_size, lr, momentum, seed, criterion)
    from lowmode_fx.cli.tuning_run import make_setting, run_probe
    from lowmode_fx.cli.tuning_tables import plot_probe, probe_text

    with results_alone():
        handles = read_handles(handle)
        setting = make_setting(model, data, image_size, in_chans, settings)
        found = run_probe(setting, config, steps, batches, handles)
    # Before it is drawn: a full disk then costs the picture alone.
    print(probe_text(model, found, format), flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        plot_probe(model, found, out)
        print(f"see {out}", file=sys.stderr)


@low_mode_options("batchnorm", "input_method", "keep_convs", "adapt_head")
def tune(
    model: ModelName,
    data: DataName,
    low: Mapping[str, Any],
    epochs: Annotated[
        int, typer.Option(min=1, max=MOST_EPOCHS, help="Epochs of the full-mode run that the plan should match.")
    ] = 30,
    image_size: ImageSize = None,
    in_chans: ImageChannels = 3,
    ratios: Annotated[
        str | None,
        Low(
            help="Downsampling ratios to try, from 1 to 4; 1 pools kernels on whole images. (default 2,1,4/3, and 8/3 "
            "with kernels kept for plans of four modes)"
        ),
    ] = None,
    modes: Annotated[
        int, typer.Option(min=2, max=100, help="Largest number of modes in the plan, full-mode included.")
    ] = 3,
    time_budget: Annotated[
        float, typer.Option(help="Largest share of the full-mode run's time that the plan may take.")
    ] = 1.0,
    batch_multiplier: Annotated[
        str,
        typer.Option(
            help="Larger batches of low steps to try where as many images then cost a tenth less: pixels, or a number. "
            "1: none"
        ),
    ] = "pixels",
    lr_rule: Annotated[LrRule, typer.Option(help="Factor on a larger batch's learning rate.")] = "linear",
    measure: Annotated[
        Literal["time", "macs"], typer.Option(help="Cost of a step: measured time, or counted macs.")
    ] = "time",
    autocast: Annotated[
        Literal["none", "bf16"], typer.Option(help="Autocast type, as in train; costs depend on it.")
    ] = "none",
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Time the modes of the plan compiled, too. (default --compile on CUDA)"
        ),
    ] = None,
    channels_last: ChannelsLast = None,
    tail: Annotated[
        float | None,
        typer.Option(help="Share of the progress that is left when r = 2 ends. (default 0.5, of four modes 0.35)"),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            help="Stop measuring after this many seconds; eight full steps and one mode's trial run are the least."
        ),
    ] = 600.0,
    batch_size: BatchSize = 125,
    lr: LearningRate = 0.05,
    momentum: Momentum = 0.9,
    criterion: CriterionName = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, path_option(help="JSON file to write, for train --tuned.")] = Path("tuned.json"),
) -> None:
    """Choose a low-mode for a model and its data: ratio, kernels, how many epochs, with what weight; and say why.

    Example: lowmode-fx tune resnet18 --data folder:path/to/images --epochs 30 --out tuned.json
    """
    check_model_name(model)
    read_spec(data)
    check_output(out)
    config = low_mode_config(None, **low)
    listed = None if ratios is None else comma_list(ratios, "ratios")
    by_default = default_ratios(3) if modes == 2 else None  # one low mode may be of r = 4/3
    tried = by_default if listed is None else [_ratio(part) for part in listed]
    as_number("time_budget", time_budget, above=0, most=1)
    if tail is not None:
        as_share("tail", tail)
    as_number("seconds", seconds, above=0)
    growth = read_one_multiplier(batch_multiplier)
    settings = _settings(device, batch_size, lr, momentum, seed, criterion, bool(channels_last))
    from lowmode_fx.cli.tuning_run import make_setting, run_tuning
    from lowmode_fx.cli.tuning_tables import tuning_table

    with results_alone():
        setting = make_setting(model, data, image_size, in_chans, settings)
        tuning = run_tuning(
            setting,
            autocast,
            epochs=epochs,
            config=config,
            ratios=tried,
            modes=modes,
            time_budget=time_budget,
            batch_multiplier=growth,
            lr_rule=lr_rule,
            measure=measure,
            compile=compile,
            tail=tail,
            seconds=seconds,
            seed=seed,
        )
        tuning = replace(tuning, measured_on={**measured_on(model, setting.splits), "lr": lr})
    print(tuning_table(tuning))  # before it is written: a disk that is full takes the file alone
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, tuning.to_json() + "\n")
    given: dict[str, Any] = {"--image-size": image_size, "--in-chans": in_chans if in_chans != 3 else None}
    given |= {"--batch-size": batch_size, "--lr": lr, "--momentum": momentum}
    given |= {"--autocast": autocast} if autocast != "none" else {}
    given |= {"--criterion": criterion}
    flags = ["--channels-last"] if channels_last else []
    options = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    never = tuning.time == 1
    choice = ["--full-only", "--epochs", str(epochs)] if never else ["--tuned", str(out)]
    command = ["lowmode-fx", "train", model, "--data", data, *options, *flags, *choice]
    print(f"written: {out}")
    print(f"train {'without low-mode' if never else 'with it'}: {shlex.join(command)}")


def _settings(
    device: str,
    batch_size: int,
    lr: float,
    momentum: float,
    seed: int,
    criterion: str | None,
    channels_last: bool = False,
) -> TrainSettings:
    """Those of the short runs."""
    return TrainSettings(
        device=device,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        seed=seed,
        criterion=criterion or CRITERIA[0],
        channels_last=channels_last,
    )


def _ratio(text: str) -> Ratio:
    hint = f"give numbers from 1 to {LARGEST_RATIO}, as in 2,4/3"
    try:
        ratio = read_ratio(text, "ratios")
    except ValueError:
        raise OptionError("ratios", text, "is not a ratio", hint) from None
    if largest_ratio(ratio) > LARGEST_RATIO:
        raise OptionError("ratios", text, "is out of range", hint)
    return ratio
