"""What the tests of the training side share: a small network, the bundled digits, image folders, a quick run."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.pair import build_ladder, build_pair
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.schedules import BernoulliSchedule, LadderSchedule, Schedule
from lowmode_fx.train import DataSplits, RunFolder, RunResult, TrainSettings, load_data, train

SIDE = 8  # of the images: the digits as they are, so that a step takes milliseconds


def tiny_model(num_classes: int = 10, in_chans: int = 3, dropout: float = 0.2, seed: int = 0) -> nn.Module:
    """Two convolutions with batch norms, and a dropout, so that every kind of state is in play."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(in_chans, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16, num_classes),
    )


def pointwise_model(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """A model whose one convolution has nothing to pool."""
    return nn.Sequential(nn.Conv2d(in_chans, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def model_without_options() -> nn.Module:
    """Takes no ``num_classes``: five outputs whatever the data."""
    return tiny_model(5)


def tiny_net(schedule: Schedule | None = None, *, compile: bool = False, seed: int = 0) -> LowModeModel:
    pair = build_pair(tiny_model(seed=seed), torch.randn(2, 3, SIDE, SIDE), LowModeConfig(pool_convs="all"))
    return LowModeModel(pair, schedule or BernoulliSchedule(p=0.5), compile=compile)


def tiny_ladder_net(schedule: Schedule | None = None, *, compile: bool = False, seed: int = 0) -> LowModeModel:
    """Modes ``r4``, ``r2`` and ``full``, an epoch of each."""
    configs = [LowModeConfig(ratio=ratio, pool_convs="all") for ratio in (4, 2)]
    ladder = build_ladder(tiny_model(seed=seed), torch.randn(2, 3, SIDE, SIDE), configs)
    return LowModeModel(ladder, schedule or LadderSchedule(epochs=(1, 1, 1)), compile=compile)


@cache
def digits() -> DataSplits:
    return load_data("digits", SIDE)


def quick_settings(**changes: Any) -> TrainSettings:
    defaults: dict[str, Any] = {"epochs": 3, "batch_size": 125, "lr": 0.1, "milestones": (2,), "device": "cpu"}
    # Runs this short would all end with statistics computed anew.
    return TrainSettings(**{**defaults, "compile": False, "precise_bn": 0, **changes})


def quick_run(
    settings: TrainSettings | None = None,
    folder: Path | None = None,
    net: nn.Module | None = None,
    resume: bool = False,
) -> tuple[nn.Module, RunResult]:
    net = tiny_net() if net is None else net
    run_folder = RunFolder.open(folder, resume=resume) if folder is not None else None
    result = train(net, digits(), settings or quick_settings(), run_folder, resume=resume, quiet=True)
    return net, result


def write_images(root: Path, classes: dict[str, int], side: int = 8, seed: int = 0) -> None:
    """``classes[name]`` random PNGs in ``root/name``."""
    rng = np.random.default_rng(seed)
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03d}.png")


def run_to_the_end(folder: str, epochs: int) -> None:
    """What a process of its own does, and does again after each kill: begin, or go on, up to the last epoch."""
    torch.set_num_threads(1)
    quick_run(quick_settings(epochs=epochs), Path(folder), resume=True)
