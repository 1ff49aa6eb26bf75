"""``lowmode-fx draw MODEL``: a picture of the full and a low graph, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lowmode_fx.cli.ladder_options import LadderOption, low_mode_configs, read_ladder, rung_pair
from lowmode_fx.cli.model_names import check_model_name
from lowmode_fx.cli.options import (
    Channels,
    Classes,
    InputSize,
    Low,
    ModelName,
    Preset,
    Submodule,
    image_sides,
    low_mode_options,
    path_option,
)
from lowmode_fx.cli.outputs import PICTURES, check_output
from lowmode_fx.cli.report_command import model_ladder
from lowmode_fx.cli.streams import results_alone


@low_mode_options()
def draw(
    model: ModelName,
    low: Mapping[str, Any],
    ladder: LadderOption = None,
    mode: Annotated[str | None, Low(help="Low mode of --ladder to draw, such as r2. (default: the cheapest)")] = None,
    input_size: InputSize = None,
    in_chans: Channels = 3,
    num_classes: Classes = None,
    submodule: Submodule = None,
    preset: Preset = None,
    part: Annotated[
        str | None, typer.Option(help="Modules to draw, as globs: a,b. (default: a block with a pooled convolution)")
    ] = None,
    out: Annotated[Path, path_option(help="File to write: .svg, .png or .pdf.")] = Path("pair.svg"),
) -> None:
    """Draw the full and a low graph side by side, with the parameters they share and what pools them.

    A model of up to 40 nodes is drawn whole.

    Example: lowmode-fx draw resnet18 --part layer1 --out layer1.png
    """
    check_output(out, PICTURES, "picture")
    configs = low_mode_configs(preset, None if ladder is None else read_ladder(ladder), low)
    check_model_name(model)
    sides = None if input_size is None else image_sides(input_size)
    from lowmode_fx.cli.drawing import draw_pair
    from lowmode_fx.cli.drawing.part import choose_part

    with results_alone():
        pair = rung_pair(model_ladder(model, configs, sides, in_chans, num_classes, submodule), mode)
        label, shown = choose_part(pair, part)
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = draw_pair(pair, shown, out, f"{model}{label and f': {label}'}")
    drawn = [row.low for row in rows if row.low]
    pooled = sum(box.kernel is not None and box.kernel.pooled is not None for box in drawn)
    dropped = sum(box.kind == "ghost" for box in drawn)
    print(f"{out}: {len(shown)} nodes, {pooled} with a pooled kernel, {dropped} dropped in {pair.modes[0]}-mode")
