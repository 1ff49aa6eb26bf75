"""``python -m lowmode_fx.cli.demo``: the method next to plain training, on handwritten digits, in minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from lowmode_fx.cli import run_app
from lowmode_fx.cli.command import as_command
from lowmode_fx.cli.options import path_option
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.pair import build_ladder
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.schedules import LadderSchedule
from lowmode_fx.train import DataSplits, RunFolder, RunResult, TrainSettings, load_data, train
from lowmode_fx.train.batches import train_batches
from lowmode_fx.train.names import SUMMARY
from lowmode_fx.train.run_folder import environment
from lowmode_fx.train.warmup import preserve_training

FULL, LADDER, CONTROL = "full-mode", "ladder", "full-mode cut short"
BATCH_SIZE = 48


def demo_model(seed: int = 0) -> nn.Module:
    """A timm ResNet-10, 16 to 128 channels wide, whose stem keeps 32×32 images at their size."""
    torch.manual_seed(seed)
    widths: dict[str, Any] = {"channels": (16, 32, 64, 128), "stem_width": 8, "stem_type": "deep"}
    model = timm.create_model("resnet10t", num_classes=10, **widths)
    stem = model.get_submodule("conv1.0")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    model.set_submodule("maxpool", nn.Identity())
    return model


def demo(
    out: Annotated[Path, path_option(help="Folder of the run.")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in that folder.")] = False,
    epochs: Annotated[int, typer.Option(help="Epochs of the two main runs, at least 3.")] = 12,
    seed: Annotated[int, typer.Option(help="Random seed of weights, order, shifts and modes.")] = 0,
    compile: Annotated[bool, typer.Option("--compile/--no-compile")] = True,
) -> None:
    """Train a small timm ResNet on bundled digits: in full-mode, up a ladder of modes, and in full-mode cut short.

    The third run is the control: full-mode with as many epochs as the ladder's steps cost in time.
    """
    if epochs < 3:
        raise ValueError(f"--epochs {epochs} is too small; give at least 3: one for each mode of the ladder")
    if not overwrite and (out / SUMMARY).exists():
        raise ValueError(f"run folder {str(out)!r} exists; give --overwrite or another --out")
    console = Console()
    folder = RunFolder.open(out, overwrite=overwrite)
    splits = load_data("digits", image_size=32)
    # Small images first, full ones at the end: the last steps settle what the network answers in full-mode. Kernels are
    # pooled in the late stages only, where their gradients agree better with full-mode's.
    configs = (LowModeConfig(pool_convs=("layer3*", "layer4*")), LowModeConfig(ratio="4/3", kernel_ratio=1))
    modes = build_ladder(demo_model(seed), torch.randn(2, *splits.image_shape), configs)
    # One compiled ladder serves all runs, so that they differ in the schedule alone.
    net = LowModeModel(modes, LadderSchedule.default(epochs), compile=compile)
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def run(label: str, schedule: LadderSchedule, epochs: int, folder: RunFolder | None = None) -> RunResult:
        net.load_state_dict(start)
        net.schedule = schedule
        net.load_schedule_state({"step": 0, "epoch": 0})
        settings = TrainSettings(
            epochs=epochs,
            batch_size=BATCH_SIZE,
            lr=0.05,
            lr_schedule="onecycle",
            lr_over="macs",
            seed=seed,
            device="cpu",
            compile=compile,
        )
        result = train(
            net, splits, settings, folder, label=label, identity={"model": "demo ResNet-10"}, console=console
        )
        if result.interrupted:
            console.print("interrupted; start again with --overwrite", markup=False)
            raise typer.Exit(128 + result.interrupted)
        return result

    began = time.perf_counter()
    never, plan = LadderSchedule((0, 0, epochs)), LadderSchedule.default(epochs)
    full = run(FULL, never, epochs)
    ladder = run(LADDER, plan, epochs, folder)
    costs = step_costs(net, splits)
    share = math.fsum(costs[mode] * steps for mode, steps in ladder.steps.items()) / full.full_steps
    results = (full, ladder, run(CONTROL, never, math.ceil(share * epochs)))  # rounded in the control's favour
    runs = {result.label: result.records for result in results}
    folder.write_metrics(runs)
    folder.write_curves(runs, title="Handwritten digits, timm ResNet-10")
    folder.write_summary(_summary(results, splits, configs, plan, seed, costs))
    console.print(_table(results))
    measured = ladder.train_seconds / full.train_seconds
    if not 0.75 < measured / share < 1.33:
        console.print(
            f"Other work on this machine distorts the seconds: the ladder took {measured:.0%} of full-mode's, "
            f"where its steps cost {share:.0%}.",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    compiling = sum(result.compile_seconds for result in results)
    told = " and ".join(f"{mode}-mode {cost:.2f}" for mode, cost in costs.items() if mode != Mode.FULL.value)
    for line in (
        f"A step in {told} of a full one, so the ladder's steps cost {share:.0%} of full-mode's.",
        f"Compilation ({compiling:.0f} s, {len(net.modes)} modes) and evaluation are not part of the times; "
        f"all took {time.perf_counter() - began:.0f} s.",
        f"metrics.csv, summary.json, curves.png and the ladder's checkpoint are in {folder.path}",
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def step_costs(net: LowModeModel, splits: DataSplits, rounds: int = 15) -> dict[str, float]:
    """Each mode's step over a full one, in time: the fastest of each, for other work only adds to them."""
    images, labels = next(train_batches(splits, batch_size=BATCH_SIZE, seed=0, epoch=0, device=torch.device("cpu")))
    seconds: dict[Mode, list[float]] = {mode: [] for mode in net.modes}
    with preserve_training(net):
        net.train()
        for mode in net.modes * rounds:
            start = time.perf_counter()
            F.cross_entropy(net.run(mode, images), labels).backward()
            seconds[mode].append(time.perf_counter() - start)
    return {str(mode): min(times) / min(seconds[Mode.FULL]) for mode, times in seconds.items()}


def _table(results: tuple[RunResult, ...]) -> Table:
    table = Table(title="Validation accuracy on 360 digits, and the training time it took")
    table.add_column("run", no_wrap=True)
    for heading in ("epochs", "r2, r4/3, full", "accuracy", "best", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            result.label,
            str(len(result.records)),
            " + ".join(str(result.steps.get(mode, 0)) for mode in ("r2", "r4/3", "full")),
            f"{result.final_accuracy:.1%}",
            f"{result.best_accuracy:.1%}",
            f"{result.train_seconds:.1f}",
        )
    return table


def _summary(
    results: tuple[RunResult, ...],
    splits: DataSplits,
    configs: Sequence[LowModeConfig],
    schedule: LadderSchedule,
    seed: int,
    costs: Mapping[str, float],
) -> dict[str, object]:
    return {
        "status": "complete",
        "data": {"spec": splits.name, "train_images": len(splits.train), "val_images": len(splits.val)},
        "seed": seed,
        "configs": [config.to_dict() for config in configs],
        "schedule": schedule.to_dict(),
        **environment(torch.device("cpu")),
        "step_costs": {mode: round(cost, 4) for mode, cost in costs.items()},
        "results": {result.label: result.summary() for result in results},
    }


def main() -> None:
    """Run the demo; a user's mistake is one line and exit status 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(as_command(demo))
    run_app(app, "python -m lowmode_fx.cli.demo")


if __name__ == "__main__":
    main()
