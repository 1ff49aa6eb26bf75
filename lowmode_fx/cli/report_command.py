"""``lowmode-fx report MODEL``: what low-mode would do to a model, before any training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, get_args

import torch
import typer

from lowmode_fx.cli.models import create_model, default_image_size
from lowmode_fx.cli.options import (
    Channels,
    Classes,
    InputSize,
    ModelName,
    Preset,
    Submodule,
    image_sides,
    low_mode_config,
    low_mode_options,
    spelled_as_options,
)
from lowmode_fx.cli.report import ReportFormat, render_report
from lowmode_fx.counting.forward import count_flops
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.pair import build_pair
from lowmode_fx.lowering.report import NoEffectWarning


@low_mode_options()
def report(
    model: ModelName,
    low: Mapping[str, Any],
    input_size: InputSize = None,
    in_chans: Channels = 3,
    num_classes: Classes = None,
    submodule: Submodule = None,
    preset: Preset = "",
    format: Annotated[str, typer.Option(help="table, markdown, json or csv.")] = "table",
) -> None:
    """Print the macs of the full and the low graph, layer by layer, with what was pooled, dropped and skipped."""
    if format not in get_args(ReportFormat):
        raise ValueError(f"--format is {format!r}; allowed: {', '.join(get_args(ReportFormat))}")
    pair = model_pair(model, low_mode_config(preset, **low), input_size, in_chans, num_classes, submodule)
    text = render_report(model, pair, count_flops(pair), format)  # type: ignore[arg-type]
    typer.echo(spelled_as_options(text) if format == "table" else text)


def model_pair(
    model: str,
    config: LowModeConfig,
    input_size: str | None = None,
    in_chans: int = 3,
    num_classes: int | None = None,
    submodule: str | None = None,
) -> ModePair:
    """The pair of a model that is named on the command line, for images of ``input_size`` or of its own size.

    What its report notes is not warned of, too.
    """
    sides = image_sides(input_size) if input_size else None
    built = create_model(model, num_classes=num_classes, in_chans=in_chans, image_size=sides[0] if sides else None)
    height, width = sides or default_image_size(built, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        return build_pair(built, torch.zeros(2, in_chans, height, width), config, submodule=submodule)
