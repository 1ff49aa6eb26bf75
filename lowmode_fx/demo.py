"""`python -m lowmode_fx.demo`: the method next to plain training, on handwritten digits, in minutes on two cores."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from lowmode_fx.pair import build_pair
from lowmode_fx.runner import LowModeModel
from lowmode_fx.schedule import BernoulliSchedule
from lowmode_fx.train import DataSplits, RunFolder, RunResult, TrainSettings, load_data, train
from lowmode_fx.train.run_folder import environment

FULL, LOW, CONTROL = "full-mode", "low-mode", "full-mode cut short"


def demo_model(seed: int = 0) -> nn.Module:
    """A timm ResNet-10, 32 to 256 channels wide, whose stem keeps 32×32 images at their size."""
    torch.manual_seed(seed)
    widths: dict[str, Any] = {"channels": (32, 64, 128, 256), "stem_width": 16, "stem_type": "deep"}
    model = timm.create_model("resnet10t", num_classes=10, **widths)
    stem = model.get_submodule("conv1.0")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    model.set_submodule("maxpool", nn.Identity())
    return model


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in it.")] = False,
    epochs: Annotated[int, typer.Option(help="Of the two main runs, at least 2.")] = 12,
    seed: Annotated[int, typer.Option(help="Of weights, order, shifts and modes.")] = 0,
    compile: Annotated[bool, typer.Option("--compile/--no-compile")] = True,
) -> None:
    """Train a small timm ResNet on bundled digits: in full-mode, with low-mode steps, and in full-mode cut short.

    The third run is the control: full-mode with as many epochs as fit into the low-mode run's training time.
    """
    if epochs < 2:
        raise ValueError(
            f"--epochs {epochs} is not allowed; give at least 2: early ones for low-mode, a last one in full"
        )
    console = Console()
    folder = RunFolder.open(out, overwrite=overwrite)
    splits = load_data("digits", image_size=32)
    # Low early and full at the end: late steps settle what the network answers in full-mode.
    early = round(epochs * 2 / 3)
    schedule = BernoulliSchedule(p=[0.8] * early + [0.0] * (epochs - early), seed=seed)
    pair = build_pair(demo_model(seed), torch.randn(2, *splits.image_shape))
    # One compiled pair serves all runs, so that they differ in the schedule alone.
    net = LowModeModel(pair, schedule, compile=compile)
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def run(label: str, schedule: BernoulliSchedule, epochs: int, folder: RunFolder | None = None) -> RunResult:
        net.load_state_dict(start)
        net.schedule = schedule
        net.load_schedule_state({"step": 0, "epoch": 0})
        settings = TrainSettings(
            epochs=epochs, batch_size=64, lr=0.05, lr_schedule="onecycle", seed=seed, device="cpu", compile=compile
        )
        result = train(
            net, splits, settings, folder, label=label, identity={"model": "demo ResNet-10"}, console=console
        )
        if result.interrupted:
            console.print("interrupted; start again with --overwrite", markup=False)
            raise typer.Exit(128 + result.interrupted)
        return result

    never = BernoulliSchedule(p=0.0)
    full = run(FULL, never, epochs)
    low = run(LOW, schedule, epochs, folder)
    fitting = math.ceil(low.train_seconds / full.train_seconds * epochs)  # rounded in the control's favour
    results = (full, low, run(CONTROL, never, fitting))
    runs = {result.label: result.records for result in results}
    folder.write_metrics(runs)
    folder.write_curves(runs, title="Handwritten digits, timm ResNet-10")
    folder.write_summary(_summary(results, splits, schedule, seed))
    console.print(_table(results))
    compiling = sum(result.compile_seconds for result in results)
    for line in (
        f"Low-mode took {low.train_seconds / full.train_seconds:.0%} of full-mode's training time.",
        f"Compilation ({compiling:.0f} s, both graphs) and evaluation are not part of the times.",
        f"metrics.csv, summary.json, curves.png and the low-mode checkpoint are in {folder.path}",
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _table(results: tuple[RunResult, ...]) -> Table:
    table = Table(title="Validation accuracy on 360 digits, and the training time it took")
    table.add_column("run", no_wrap=True)
    for heading in ("epochs", "low steps", "accuracy", "best", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            result.label,
            str(len(result.records)),
            f"{result.low_steps}/{result.low_steps + result.full_steps}",
            f"{result.final_accuracy:.1%}",
            f"{result.best_accuracy:.1%}",
            f"{result.train_seconds:.1f}",
        )
    return table


def _summary(
    results: tuple[RunResult, ...], splits: DataSplits, schedule: BernoulliSchedule, seed: int
) -> dict[str, object]:
    return {
        "status": "complete",
        "data": {"spec": splits.name, "train_images": len(splits.train), "val_images": len(splits.val)},
        "seed": seed,
        "schedule": schedule.to_dict(),
        **environment(torch.device("cpu")),
        "results": {result.label: result.summary() for result in results},
    }


def main() -> None:
    """Run the demo; a user's mistake is one line and exit status 2."""
    app = typer.Typer(add_completion=False)
    app.command()(demo)
    try:
        app()
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
