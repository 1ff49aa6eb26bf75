"""What ``lowmode-fx evaluate`` does once its options are known to be right, and how its result is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lowmode_fx.cli.formats import EvaluationFormat
from lowmode_fx.cli.models import create_model
from lowmode_fx.train.batches import val_batches
from lowmode_fx.train.checkpoint import Checkpoint, CheckpointError, load_checkpoint, load_strictly, read_checkpoint
from lowmode_fx.train.data import load_data
from lowmode_fx.train.data_spec import read_spec
from lowmode_fx.train.evaluate import Evaluation, check_outputs, measured
from lowmode_fx.train.folder import FolderImages
from lowmode_fx.train.layout import scan_classes
from lowmode_fx.train.loss import make_criterion
from lowmode_fx.train.names import PREVIOUS, Part
from lowmode_fx.train.outputs import logits_of
from lowmode_fx.train.past_run import PastRun
from lowmode_fx.train.placement import place_images
from lowmode_fx.train.splits import DataSplits
from lowmode_fx.train.weights import read_weights
from lowmode_fx.utils.allocator import keep_freed_memory
from lowmode_fx.utils.tables import rendered, text_table
from lowmode_fx.utils.validation import as_choice
from passes.errors import OptionError
from passes.wording import sides


@dataclass(frozen=True)
class RunEvaluation:
    """``on``: the part of the set, or ``"all"`` of its images. ``weights``: which of the run's, in words.

    ``criterion``: the name of the loss.
    """

    run: Path
    model: str
    data: str
    on: str
    image_shape: tuple[int, int, int]
    weights: str
    criterion: str
    result: Evaluation


def run_evaluation(
    past: PastRun, *, data: str | None, part: Part, checkpoint: Path | bool, averaged: bool
) -> RunEvaluation:
    """The run's weights on its own data or on another set of its classes.

    checkpoint: ``False`` for the newest, ``True`` for the one before it, or a file. Raises ``ValueError`` for data or
    weights that don't fit the run.
    """
    settings = past.settings
    device = settings.torch_device()
    if device.type == "cpu":
        keep_freed_memory()
    weights, place, described = _weights(past, checkpoint, averaged)
    splits, on = _splits(past, data, part)
    model = create_model(
        past.model, num_classes=len(past.classes), in_chans=past.image_shape[0], image_size=past.image_size
    )
    wanted = f"give weights of {past.model} with {len(past.classes)} classes, as the run's"
    load_strictly(model, weights, f"checkpoint {str(place)!r}", wanted)
    splits, _ = place_images(settings.data_on if settings.data_on == "host" else "auto", splits, device)
    model.to(device)
    check_outputs(model, splits, settings, device)
    loss = _loss(settings.criterion, model, splits, device)
    result = measured(model, splits, settings, device, loss)
    return RunEvaluation(
        past.path, past.model, splits.name, on, splits.image_shape, described, settings.criterion, result
    )


def _weights(past: PastRun, checkpoint: Path | bool, averaged: bool) -> tuple[dict[str, Tensor], Path, str]:
    """A state dict, where it lies, and which it is."""
    if isinstance(checkpoint, Path):
        return read_weights("checkpoint", checkpoint), checkpoint, str(checkpoint)
    found = _previous(past) if checkpoint else load_checkpoint(past.path, else_do="give another run")
    for damage in found.damage:
        _note(f"{damage}; taking {found.folder.name} instead")
    weights = dict(found.state["ema"]["weights"]) if averaged else found.weights
    kind = "averaged weights of " if averaged else ""
    return weights, found.folder, f"{kind}{found.folder}, {_place(found)}"


def _previous(past: PastRun) -> Checkpoint:
    folder, hint = past.path / PREVIOUS, "give last, or leave it out"
    if not folder.is_dir():
        problem = f"is not there: {past.path} holds one checkpoint, its last"
        raise OptionError("checkpoint", "previous", problem, hint)
    try:
        return read_checkpoint(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {hint}") from error


def _place(checkpoint: Checkpoint) -> str:
    """Where in its run a checkpoint was written: ``after epoch 3``."""
    epoch, step = checkpoint.state.get("epoch", 0), checkpoint.state.get("step", 0)
    return f"in epoch {epoch + 1}, after step {step}" if step else f"after epoch {epoch}"


def _splits(past: PastRun, data: str | None, part: Part) -> tuple[DataSplits, str]:
    """The set, normalised as the run's images were, whose ``val`` is what is evaluated; and what that is."""
    splits, on = _classes_alone(past, data, part), "all"
    if splits is None:
        on = part
        splits = load_data(data or past.data, past.image_size, past.image_shape[0], only=part)
    for note in splits.notes if data is not None else ():
        _note(note)
    if splits.classes != past.classes:
        raise OptionError("data", splits.name, f"has {_other(splits.classes, past.classes)}", "give a set of the same")
    if splits.image_shape != past.image_shape:
        shapes = f"images of {sides(splits.image_shape)}, and the run's are {sides(past.image_shape)}"
        raise OptionError("data", splits.name, f"has {shapes}", "give images of that size")
    return replace(splits, mean=past.mean, std=past.std), on


def _classes_alone(past: PastRun, data: str | None, part: Part) -> DataSplits | None:
    """A folder that holds class folders and no splits: all of its images, as its ``val``."""
    read = None if data is None or part != "val" else read_spec(data)
    if read is None or read.root is None or read.kind != "folder":
        return None
    found = scan_classes(read.root, past.classes)
    if found is None:
        return None
    channels, *sides = past.image_shape
    images = FolderImages.of(found, (sides[0], sides[1]), channels)
    return DataSplits(str(data), images, images, past.classes, past.mean, past.std)


def _other(found: Sequence[str], wanted: Sequence[str]) -> str:
    """In what two lists of classes differ, in words."""
    if len(found) != len(wanted):
        return f"{len(found)} classes, and the run has {len(wanted)}"
    place = next(place for place, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other)
    return f"other classes: class {place} is {found[place]!r}, and {wanted[place]!r} in the run"


def _loss(
    name: str, model: nn.Module, splits: DataSplits, device: torch.device
) -> Callable[[Any, Tensor], Tensor] | None:
    """The run's loss without smoothing and class weights; ``None`` for one that can't be had in eval mode.

    Named losses see the model's logits alone, a user's own what the model returns.
    """
    criterion = make_criterion(name, device=device)
    if ":" not in name:
        return lambda outputs, labels: criterion(logits_of(outputs), labels)
    images, labels = next(val_batches(splits, batch_size=2, device=device))
    try:
        with torch.no_grad():
            criterion(model(images), labels)
    except (ValueError, TypeError) as error:
        _note(f"no loss: {error}")
        return None
    return criterion


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def evaluation_text(found: RunEvaluation, style: str = "table") -> str:
    """The result as a ``"table"`` or as ``"json"``. Raises ``ValueError`` for another style."""
    result = found.result
    if style == "json":
        values = {
            "run": str(found.run),
            "model": found.model,
            "weights": found.weights,
            "data": found.data,
            "on": found.on,
            "images": result.images,
            "right": result.right,
            "accuracy": result.accuracy,
            "standard_error": result.standard_error,
            "criterion": found.criterion,
            "loss": result.loss,
        }
        return json.dumps(values, indent=2)
    as_choice("format", style, get_args(EvaluationFormat))
    table = text_table(("on", "images", "right", "accuracy", "±", f"loss ({found.criterion})"))
    loss = "" if result.loss is None else f"{result.loss:.4f}"
    shares = (f"{result.accuracy:.2%}", f"{result.standard_error:.2%}")
    table.add_row(found.on, str(result.images), str(result.right), *shares, loss)
    head = f"{found.model} on {found.data}, images of {sides(found.image_shape)}; {found.weights}"
    return rendered(head, table)
