"""``lowmode-fx report MODEL``: what low-mode would do to a model, before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args

import torch
import typer

from lowmode_fx.cli.handle_options import HandleOption, counted, read_handles
from lowmode_fx.cli.ladder_options import LadderOption, build_modes, low_mode_configs, read_ladder
from lowmode_fx.cli.models import create_model, default_image_size
from lowmode_fx.cli.options import (
    Channels,
    Classes,
    InputSize,
    ModelName,
    Preset,
    Submodule,
    image_sides,
    low_mode_options,
    spelled_as_options,
)
from lowmode_fx.cli.report import ReportFormat, render_report
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.utils.validation import as_choice


@low_mode_options()
def report(
    model: ModelName,
    low: Mapping[str, Any],
    ladder: LadderOption = None,
    input_size: InputSize = None,
    in_chans: Channels = 3,
    num_classes: Classes = None,
    submodule: Submodule = None,
    preset: Preset = "",
    handle: HandleOption = None,
    format: Annotated[str, typer.Option(help="table, markdown, json or csv.")] = "table",
) -> None:
    """Print the macs of the full and the low graphs, layer by layer, with what was pooled, dropped and skipped."""
    as_choice("format", format, get_args(ReportFormat))
    handles = read_handles(handle)
    configs = low_mode_configs(preset, read_ladder(ladder) if ladder else None, low)
    modes = model_ladder(model, configs, input_size, in_chans, num_classes, submodule)
    text = render_report(model, modes, counted(modes, handles), format)  # type: ignore[arg-type]
    typer.echo(spelled_as_options(text) if format == "table" else text)


def model_ladder(
    model: str,
    configs: Sequence[LowModeConfig],
    input_size: str | None = None,
    in_chans: int = 3,
    num_classes: int | None = None,
    submodule: str | None = None,
) -> Ladder:
    """The modes of a model that is named on the command line, for images of ``input_size`` or of its own size.

    A pair of one config, a ladder of several. What their reports note is not warned of, too.
    """
    sides = image_sides(input_size) if input_size else None
    built = create_model(model, num_classes=num_classes, in_chans=in_chans, image_size=sides[0] if sides else None)
    height, width = sides or default_image_size(built, model)
    return build_modes(built, torch.zeros(2, in_chans, height, width), configs, submodule)
