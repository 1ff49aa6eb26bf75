"""``lowmode-fx evaluate RUN``: accuracy and loss of the weights in a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lowmode_fx.cli.formats import EvaluationFormat
from lowmode_fx.cli.model_names import check_model_name
from lowmode_fx.cli.options import Data
from lowmode_fx.cli.outputs import as_path
from lowmode_fx.cli.streams import results_alone
from lowmode_fx.train.data_spec import read_spec
from lowmode_fx.train.names import Part
from lowmode_fx.train.past_run import read_past_run
from passes.errors import OptionError


def evaluate(
    run: Annotated[Path, typer.Argument(parser=as_path, metavar="RUN", help="Run folder that `train` wrote.")],
    data: Annotated[
        str | None, Data(help="Another data set of the same classes, as in `train`. (default the run's own)")
    ] = None,
    on: Annotated[Part, Data(help="Part of the data set; training images are not augmented.")] = "val",
    checkpoint: Annotated[
        str, typer.Option(help="Weights: last, previous (the checkpoint before it), or a file or another run folder.")
    ] = "last",
    ema: Annotated[
        bool | None,
        typer.Option("--ema/--no-ema", help="Whether the weights are the averaged ones. (default if the run has them)"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per batch. (default as in `train`, 500)")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device: auto, cpu, cuda, … (default the run's)")] = None,
    format: Annotated[EvaluationFormat, typer.Option(help="Output format.")] = "table",
) -> None:
    """Print the accuracy and the loss of a run's weights, in full-mode.

    Model, image size and normalisation are the run's. On the same device the accuracy is the one that `train` printed
    for these weights.

    Example: lowmode-fx evaluate runs/resnet18-digits
    """
    past = read_past_run(run)
    check_model_name(past.model)
    channels = past.image_shape[0]
    if read_spec(data or past.data).kind != "folder" and channels not in (1, 3):
        problem = f"has no images of {channels} channels, as the run's are"
        raise OptionError("data", data, problem, "give folder:PATH of such images")
    named = checkpoint not in ("last", "previous")
    if ema is not None and named:
        raise OptionError("ema", ema, f"has no meaning for --checkpoint {checkpoint!r}", "leave it out")
    if ema and not past.settings.ema:
        raise OptionError("ema", ema, f"finds no averaged weights: the run in {run} kept none", "leave it out")
    settings = replace(
        past.settings,
        eval_batch_size=batch_size or past.settings.eval_batch_size,
        device=device or past.settings.device,
    )
    from lowmode_fx.cli.evaluation import evaluation_text, run_evaluation

    with results_alone():
        found = run_evaluation(
            replace(past, settings=settings),
            data=data,
            part=on,
            checkpoint=as_path(checkpoint) if named else checkpoint == "previous",
            averaged=bool(past.settings.ema) if ema is None else ema,
        )
    print(evaluation_text(found, format))
