"""The paper's recipe (§4) at any length: networks, epochs, low-mode's schedule and the controls' lengths."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from bench.networks import resnet, small_resnet
from lowmode_fx import BernoulliSchedule, LowModeConfig, Mode
from lowmode_fx.train import DataSplits, TrainSettings, load_data
from lowmode_fx.train.images import MemoryImages

PAPER_EPOCHS, PAPER_MILESTONES, PAPER_HOLD = 200, (80, 120), 4
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "resnet18": lambda classes: resnet(18, "cifar", classes),
    "resnet50": lambda classes: resnet(50, "cifar", classes),
    "resnet8": lambda classes: small_resnet(blocks=1, width=16, classes=classes),
}
FULL, LOW, SAME_TIME, RESOLUTION = "full-mode", "low-mode", "full-mode, same time", "resolution only"
ARMS = (FULL, LOW, SAME_TIME, RESOLUTION)
CONFIGS = {LOW: LowModeConfig.paper(), RESOLUTION: replace(LowModeConfig.paper(), kernel_ratio=1)}


@dataclass(frozen=True)
class Form:
    """Sizes of a form of the benchmark: ``train`` and ``val`` are the numbers of images."""

    networks: tuple[str, ...]
    epochs: int
    train: int | None = None
    val: int | None = None


WHOLE = Form(("resnet18", "resnet50"), PAPER_EPOCHS)
SMALL = Form(("resnet8",), 20, 5_000, 2_000)


def milestones(epochs: int) -> tuple[int, ...]:
    """The epochs in which the rate falls: the paper's 80 and 120 of 200, scaled."""
    scaled = {round(milestone * epochs / PAPER_EPOCHS) for milestone in PAPER_MILESTONES}
    return tuple(sorted(scaled - {0, epochs}))


def schedule(epochs: int, seed: int) -> BernoulliSchedule:
    """p = 0.5, except in the hold after each change of the rate: the paper's 4 of 200 epochs, scaled, or 1 of 10."""
    hold = max(round(PAPER_HOLD * epochs / PAPER_EPOCHS), 1 if epochs >= 10 else 0)
    return BernoulliSchedule(0.5, seed, hold, (0, *milestones(epochs)))


def count_modes(epochs: int, steps: int, seed: int) -> tuple[int, int]:
    """(full, low) steps of a low-mode run of ``epochs`` × ``steps``."""
    chosen = schedule(epochs, seed)
    low = sum(chosen.mode(step, step // steps) is Mode.LOW for step in range(epochs * steps))
    return epochs * steps - low, low


def control_epochs(full_steps: int, low_steps: int, cost: float, steps: int) -> int:
    """Whole epochs of ``steps`` full steps in low-mode's time, rounded up in the control's favour.

    ``cost``: time of a low step divided by a full step's.
    """
    return max(1, math.ceil((full_steps + cost * low_steps) / steps - 1e-9))


def recipe(epochs: int, seed: int, batch_size: int) -> TrainSettings:
    """The paper's settings for a run of ``epochs``, in bf16, and compiled on a GPU."""
    gpu = torch.cuda.is_available()
    return TrainSettings.paper(
        epochs=epochs,
        milestones=milestones(epochs),
        batch_size=batch_size,
        seed=seed,
        autocast="bf16",
        compile=gpu,
        device="auto",
    )


def network(name: str, classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return NETWORKS[name](classes).to(device).to(memory_format=torch.channels_last)


def load(spec: str, form: Form) -> DataSplits:
    """The data set, or the part of each split that the form takes; the same images every time."""
    whole = load_data(spec)
    return replace(whole, train=_part(whole.train, form.train), val=_part(whole.val, form.val))


def _part(source: Any, count: int | None) -> Any:
    if count is None or count >= len(source):
        return source
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[:count]
    return MemoryImages(source.images[chosen], source.labels[chosen])
