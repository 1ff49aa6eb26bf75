"""``lowmode-fx probe`` and ``lowmode-fx tune``: what low steps teach on a user's model and data."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer
from torch import nn

from lowmode_fx.cli.handle_options import HandleOption, counted, read_handles
from lowmode_fx.cli.models import create_model
from lowmode_fx.cli.options import (
    LOW_MODE,
    CriterionName,
    DataName,
    ImageChannels,
    ImageSize,
    Low,
    ModelName,
    low_mode_config,
    low_mode_options,
    spelled_as_options,
)
from lowmode_fx.cli.tuning_tables import PROBE_FORMATS, plot_probe, probe_text, tuning_table
from lowmode_fx.lowering.lower import pair_of
from lowmode_fx.train.batches import EpochBatches
from lowmode_fx.train.data import DataSplits, load_data
from lowmode_fx.train.loss import CRITERIA, Criterion, make_criterion
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.tuning.costs import CostMeasure
from lowmode_fx.tuning.sensitivity import probe_sites
from lowmode_fx.tuning.trials import OptimizerFactory, Probe
from lowmode_fx.tuning.tune import tune as tune_model
from lowmode_fx.utils.allocator import keep_freed_memory
from lowmode_fx.utils.atomic import write_text
from lowmode_fx.utils.progress import progress
from lowmode_fx.utils.validation import as_choice, as_count
from passes.ratios import Ratio, read_ratio

Rate = partial(typer.Option, rich_help_panel="Optimisation of the short runs")
BatchSize = Annotated[int, Rate()]
LearningRate = Annotated[float, Rate()]
Momentum = Annotated[float, Rate()]
Seed = Annotated[int, typer.Option()]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]


@dataclass(frozen=True)
class _Setting:
    """A model with its data and how it is trained, as both commands take them."""

    model: nn.Module
    splits: DataSplits
    loader: EpochBatches
    optimizer: OptimizerFactory
    criterion: Criterion


@low_mode_options(*(name for name in LOW_MODE if name != "restore_output"))
def probe(
    model: ModelName,
    data: DataName,
    low: Mapping[str, Any],
    image_size: ImageSize = None,
    in_chans: ImageChannels = 3,
    steps: Annotated[int, typer.Option(help="Full steps before measuring: gradients at the start say little.")] = 200,
    batches: Annotated[int, typer.Option(help="That gradients are compared on.")] = 4,
    batch_size: BatchSize = 125,
    lr: LearningRate = 0.05,
    momentum: Momentum = 0.9,
    criterion: CriterionName = None,
    seed: Seed = 0,
    device: Device = "auto",
    handle: HandleOption = None,
    format: Annotated[str, typer.Option(help="table, json or csv.")] = "table",
    out: Annotated[Path | None, typer.Option(help="PNG with a bar chart.")] = None,
) -> None:
    """Print, for each kernel that low-mode would pool, the macs saved and the agreement lost if it alone is pooled."""
    as_choice("format", format, PROBE_FORMATS)
    as_count("batches", batches, 2)
    as_count("steps", steps, 1)
    if out is not None and out.suffix.lower() != ".png":
        raise ValueError(f"--out {str(out)!r} is no PNG; give a name that ends in .png")
    config, handles = low_mode_config("", **low), read_handles(handle)
    setting = _setting(model, data, image_size, in_chans, batch_size, lr, momentum, criterion, seed, device)
    with progress() as tell:
        measured = Probe(setting.model, setting.loader, setting.criterion, setting.optimizer, batches)
        counted(pair_of(measured.captured, config), handles)  # what is refused is told before any training

        def on_step(step: int) -> bool:
            tell(f"{steps} full steps", 0.5 * step / steps)
            return True

        measured.run((steps,), on_step)
        done = 0

        def on_site(name: str, total: int) -> None:
            nonlocal done
            tell(f"pooling {name} alone", 0.5 + 0.5 * done / total)
            done += 1

        found = probe_sites(measured, config, on_site, handles=handles)
    typer.echo(probe_text(model, found, format))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        plot_probe(model, found, out)


@low_mode_options("batchnorm", "input_method", "keep_convs", "adapt_head")
def tune(
    model: ModelName,
    data: DataName,
    low: Mapping[str, Any],
    epochs: Annotated[int, typer.Option(help="Of the full run that low-mode is to match.")] = 30,
    image_size: ImageSize = None,
    in_chans: ImageChannels = 3,
    ratios: Annotated[str, Low(help="Of the images' sides, of 1 to 4; 1 pools kernels on whole images.")] = "2,4/3,1",
    modes: Annotated[int, typer.Option(help="How many modes the plan has at most, full-mode counted.")] = 3,
    time_budget: Annotated[float, typer.Option(help="Share of the full run's time that the plan may take.")] = 1.0,
    measure: Annotated[str, typer.Option(help="A step's cost: time or macs.")] = "time",
    autocast: Annotated[str, typer.Option(help="none or bf16, as in train: costs depend on it.")] = "none",
    tail: Annotated[float, typer.Option(help="Share of the progress that stays full.")] = 0.5,
    seconds: Annotated[float, typer.Option(help="A cap on the time.")] = 600.0,
    batch_size: BatchSize = 125,
    lr: LearningRate = 0.05,
    momentum: Momentum = 0.9,
    criterion: CriterionName = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON for train --tuned. (default tuned.json)")] = None,
) -> None:
    """Choose a low-mode for a model and its data: ratio, kernels, how many epochs, with what weight; and say why."""
    as_choice("measure", measure, get_args(CostMeasure))
    as_choice("autocast", autocast, ("none", "bf16"))  # whose costs hold for fp16 too
    config = low_mode_config("", **low)
    setting = _setting(model, data, image_size, in_chans, batch_size, lr, momentum, criterion, seed, device)
    with progress() as tell:
        tuning = tune_model(
            setting.model,
            setting.loader,
            epochs=epochs,
            criterion=setting.criterion,
            optimizer=setting.optimizer,
            config=config,
            ratios=[_ratio(part) for part in ratios.split(",")],
            modes=modes,
            time_budget=time_budget,
            measure=measure,  # type: ignore[arg-type]
            autocast=torch.bfloat16 if autocast == "bf16" else None,
            tail=tail,
            seconds=seconds,
            seed=seed,
            on_progress=tell,
        )
    path = out or Path("tuned.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, tuning.to_json() + "\n")
    typer.echo(spelled_as_options(tuning_table(tuning)).replace("--whole-images", "--ratios 1"))
    given: dict[str, Any] = {"--image-size": image_size, "--in-chans": in_chans if in_chans != 3 else None}
    given |= {"--batch-size": batch_size, "--lr": lr, "--momentum": momentum}
    given |= {"--autocast": autocast} if autocast != "none" else {}
    given |= {"--criterion": criterion}
    options = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    never = tuning.time == 1
    choice = ["--full-only", "--epochs", str(epochs)] if never else ["--tuned", str(path)]
    command = ["lowmode-fx", "train", model, "--data", data, *options, *choice]
    typer.echo(f"train {'without low-mode' if never else 'with it'}: {shlex.join(command)}")


def _setting(
    model: str,
    data: str,
    image_size: int | None,
    in_chans: int,
    batch_size: int,
    lr: float,
    momentum: float,
    criterion: str | None,
    seed: int,
    device: str,
) -> _Setting:
    place = TrainSettings(device=device, batch_size=batch_size, lr=lr, momentum=momentum, seed=seed).torch_device()
    if place.type == "cpu":
        keep_freed_memory()
    loss = make_criterion(criterion or CRITERIA[0], device=place)
    splits = load_data(data, image_size, in_chans).to(place)
    for note in splits.notes:
        typer.echo(f"note: {note}", err=True)
    _, height, width = splits.image_shape
    torch.manual_seed(seed)
    side = height if height == width else None
    built = create_model(model, num_classes=splits.num_classes, in_chans=in_chans, image_size=side).to(place)

    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=5e-4)

    return _Setting(built, splits, EpochBatches(splits, batch_size, place, seed), optimizer, loss)


def _ratio(text: str) -> Ratio:
    try:
        return read_ratio(text.strip(), "--ratios")
    except ValueError:
        raise ValueError(f"--ratios has {text!r}, which is no ratio; give numbers from 1 to 4, as in 2,4/3") from None
