"""``lowmode-fx report MODEL``: what low-mode would do to a model, before any training."""

from __future__ import annotations

import warnings
from typing import Annotated, get_args

import torch
import typer

from .config import LowModeConfig
from .fitting import NoEffectWarning
from .flops import count_flops
from .models import create_model, default_image_size
from .options import image_sides, low_mode_config
from .pair import build_pair
from .report import ReportFormat, render_report


def report(
    model: Annotated[str, typer.Argument(help="A timm name, torchvision:NAME or package.module:callable.")],
    input_size: Annotated[str | None, typer.Option(help="Pixels: 224, or 192x256 (height × width).")] = None,
    in_chans: Annotated[int, typer.Option(help="Channels of the images.")] = 3,
    num_classes: Annotated[int | None, typer.Option(help="Of the head.")] = None,
    ratio: Annotated[int | None, typer.Option(help="Of the images' sides, an integer ≥ 2. (default 2)")] = None,
    kernel_ratio: Annotated[int | None, typer.Option(help="Of the kernels; 1 keeps them. (default: ratio)")] = None,
    rounding: Annotated[str | None, typer.Option(help="ceil, floor or cover.")] = None,
    kernel_transform: Annotated[str | None, typer.Option(help="avg, adaptive, center or linear.")] = None,
    pool_convs: Annotated[str | None, typer.Option(help="dense, all, or globs: a,b. (default dense)")] = None,
    keep_convs: Annotated[str | None, typer.Option(help="Globs of convs to keep.")] = None,
    drop_maxpools: Annotated[str | None, typer.Option(help="none, stem, all or globs. (default none)")] = None,
    batchnorm: Annotated[str | None, typer.Option(help="isolate or share.")] = None,
    submodule: Annotated[str | None, typer.Option(help="Only this part, as backbone; fed the images.")] = None,
    adapt_head: Annotated[bool | None, typer.Option("--adapt-head", help="Resize a map that is flattened.")] = None,
    preset: Annotated[str, typer.Option(help="paper: the setting of §4. Other options win over it.")] = "",
    format: Annotated[str, typer.Option(help="table, markdown, json or csv.")] = "table",
) -> None:
    """Print the macs of the full and the low graph, layer by layer, with what was pooled, dropped and skipped."""
    if format not in get_args(ReportFormat):
        raise ValueError(f"--format is {format!r}; allowed: {', '.join(get_args(ReportFormat))}")
    if preset not in ("", "paper"):
        raise ValueError(f"--preset is {preset!r}; allowed: paper")
    config = low_mode_config(
        LowModeConfig.paper() if preset else LowModeConfig(),
        ratio=ratio,
        kernel_ratio=kernel_ratio,
        rounding=rounding,
        kernel_transform=kernel_transform,
        pool_convs=pool_convs,
        keep_convs=keep_convs,
        drop_maxpools=drop_maxpools,
        batchnorm=batchnorm,
        adapt_head=adapt_head,
    )
    sides = image_sides(input_size) if input_size else None
    built = create_model(model, num_classes=num_classes, in_chans=in_chans, image_size=sides[0] if sides else None)
    height, width = sides or default_image_size(built, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # the report's notes say it
        pair = build_pair(built, torch.zeros(2, in_chans, height, width), config, submodule=submodule)
    typer.echo(render_report(model, pair, count_flops(pair), format))  # type: ignore[arg-type]
