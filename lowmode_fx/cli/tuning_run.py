"""The work of ``lowmode-fx probe`` and ``tune``: a model with its data, short runs of it, and what was measured on."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lowmode_fx.cli.handle_options import Handles, counted
from lowmode_fx.cli.models import create_model
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.lower import pair_of
from lowmode_fx.train.batches import EpochBatches
from lowmode_fx.train.data import load_data
from lowmode_fx.train.evaluate import check_outputs
from lowmode_fx.train.loss import Criterion, make_criterion
from lowmode_fx.train.optimizer import check_trainable
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.train.splits import DataSplits
from lowmode_fx.tuning.costs import OptimizerFactory
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.sensitivity import ModelProbe, probe_sites
from lowmode_fx.tuning.trials import Probe
from lowmode_fx.tuning.tune import tune as tune_model
from lowmode_fx.utils.allocator import keep_freed_memory
from lowmode_fx.utils.progress import progress


@dataclass(frozen=True)
class Setting:
    """A model with its data and how it is trained, as both commands take them."""

    model: nn.Module
    splits: DataSplits
    loader: EpochBatches
    optimizer: OptimizerFactory
    criterion: Criterion


def make_setting(model: str, data: str, image_size: int | None, in_chans: int, settings: TrainSettings) -> Setting:
    """The model and the data that are named, on the device that is asked for."""
    place = settings.torch_device()
    if place.type == "cpu":
        keep_freed_memory()
    loss = make_criterion(settings.criterion, device=place)  # its errors come before images are decoded
    splits = load_data(data, image_size, in_chans, only="train").to(place)
    for note in splits.notes:
        print(f"note: {note}", file=sys.stderr)
    _, height, width = splits.image_shape
    torch.manual_seed(settings.seed)
    side = height if height == width else None
    built = create_model(model, num_classes=splits.num_classes, in_chans=in_chans, image_size=side).to(place)
    if settings.channels_last:
        built.to(memory_format=torch.channels_last)

    check_trainable(built)
    check_outputs(built, splits, settings, place)
    built.train()

    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        fused = place.type == "cuda" or None
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=5e-4, fused=fused)

    loader = EpochBatches(splits, settings.batch_size, place, settings.seed, settings.channels_last)
    return Setting(built, splits, loader, optimizer, loss)


def run_probe(setting: Setting, config: LowModeConfig, steps: int, batches: int, handles: Handles) -> ModelProbe:
    """Each kernel that low-mode would pool, alone. handles: macs of operators that are not counted otherwise."""
    with progress() as tell:
        measured = Probe(setting.model, setting.loader, setting.criterion, setting.optimizer, batches)
        pair = pair_of(measured.captured, config)
        counted(pair, handles)  # refusals come before any training
        if not pair.report.pooled:
            raise ValueError(f"low-mode pools no kernel of this model{_reasons(pair)}; give others by --pool-convs")

        def on_step(step: int) -> bool:
            tell(f"{steps} full steps", 0.5 * step / steps)
            return True

        measured.run((steps,), on_step)
        done = 0

        def on_site(name: str, total: int) -> None:
            nonlocal done
            tell(f"pooling {name} alone", 0.5 + 0.5 * done / total)
            done += 1

        return probe_sites(measured, config, on_site, handles=handles)


def _reasons(pair: ModePair) -> str:
    """Why kernels are kept, each reason once."""
    skips = pair.report.of("pool_weights").skips
    return f" ({', '.join(dict.fromkeys(skip.reason for skip in skips))})" if skips else ""


def run_tuning(setting: Setting, autocast: str, **options: Any) -> Tuning:
    """options: of ``lowmode_fx.tune``."""
    with progress() as tell:
        return tune_model(
            setting.model,
            setting.loader,
            criterion=setting.criterion,
            optimizer=setting.optimizer,
            autocast=torch.bfloat16 if autocast == "bf16" else None,
            on_progress=tell,
            **options,
        )
