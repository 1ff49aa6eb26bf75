"""``lowmode-fx report MODEL``: what low-mode would do to a model, before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowmode_fx.cli.formats import ReportFormat
from lowmode_fx.cli.handle_options import HandleOption, counted, read_handles
from lowmode_fx.cli.ladder_options import LadderOption, build_modes, low_mode_configs, read_ladder
from lowmode_fx.cli.model_names import check_model_name
from lowmode_fx.cli.options import (
    Channels,
    Classes,
    InputSize,
    ModelName,
    Preset,
    Submodule,
    image_sides,
    low_mode_options,
    path_option,
)
from lowmode_fx.cli.outputs import check_output
from lowmode_fx.cli.streams import results_alone
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.utils.atomic import write_text
from lowmode_fx.utils.user_code import user_code

if TYPE_CHECKING:
    from lowmode_fx.lowering.ladder import Ladder


@low_mode_options()
def report(
    model: ModelName,
    low: Mapping[str, Any],
    ladder: LadderOption = None,
    input_size: InputSize = None,
    in_chans: Channels = 3,
    num_classes: Classes = None,
    submodule: Submodule = None,
    preset: Preset = None,
    handle: HandleOption = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=10**6, help="Also print the cost of a training step with this batch size.")
    ] = None,
    format: Annotated[ReportFormat, typer.Option(help="Output format; html writes a self-contained page.")] = "table",
    out: Annotated[Path | None, path_option(help="Write to this file instead of standard output.")] = None,
) -> None:
    """Print the multiply-adds of each mode, layer by layer, with what was pooled, dropped and skipped.

    Counts are per image: convolutions, linear layers and matrix products, as papers quote them, then norms and the
    rest. What is done to weights, once a step, stands apart.

    Example: lowmode-fx report resnet50 --ratio 2 --kernel-ratio 1
    """
    configs = low_mode_configs(preset, None if ladder is None else read_ladder(ladder), low)
    check_model_name(model)
    sides = None if input_size is None else image_sides(input_size)
    if out is not None:
        check_output(out, what="report")
    with results_alone():
        handles = read_handles(handle)
    from lowmode_fx.cli.report import render_report
    from lowmode_fx.counting.step_cost import step_cost

    with results_alone():
        modes = model_ladder(model, configs, sides, in_chans, num_classes, submodule)
        flops = counted(modes, handles)
        step = None if batch_size is None else step_cost(modes, flops, batch_size)
        text = render_report(model, modes, flops, format, step)
    if out is None:
        print(text)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, f"{text}\n")
        print(out)


def model_ladder(
    model: str,
    configs: Sequence[LowModeConfig],
    sides: tuple[int, int] | None = None,
    in_chans: int = 3,
    num_classes: int | None = None,
    submodule: str | None = None,
) -> Ladder:
    """The modes of a model that is named on the command line, for images of ``sides`` (H, W) or of its own size.

    A pair of one config, a ladder of several. What their reports note is not warned of, too.
    """
    import torch

    from lowmode_fx.cli.models import create_model, default_image_size

    built = create_model(model, num_classes=num_classes, in_chans=in_chans, image_size=sides[0] if sides else None)
    height, width = sides or default_image_size(built, model)
    with user_code(f"images of {height}×{width} pixels can't be made"):
        example = torch.zeros(2, in_chans, height, width)
    return build_modes(built, example, configs, submodule)
