"""What decides a run's course, in JSON's values: a checkpoint and the run that goes on from it must agree in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.train.splits import DataSplits


def run_identity(
    identity: Mapping[str, Any], net: LowModeModel | None, splits: DataSplits, settings: TrainSettings
) -> dict[str, Any]:
    """``identity`` with low-mode, data and settings; not where the data lies and what device it runs on."""
    images = {
        "classes": splits.classes,
        "train_images": len(splits.train),
        "val_images": len(splits.val),
        "image_shape": splits.image_shape,
        "mean": splits.mean,
        "std": splits.std,
    }
    low_mode = None if net is None else _low_mode(net)
    described = {**identity, "low_mode": low_mode, "data": images, "settings": settings.trajectory()}
    return dict(json.loads(json.dumps(described)))


def _low_mode(net: LowModeModel) -> dict[str, Any]:
    """The schedule, and the config of the low mode (``config``), or of each of several by its name (``configs``)."""
    schedule = net.schedule
    described = schedule.to_dict() if hasattr(schedule, "to_dict") else repr(schedule)
    weight = {"low_weight": _plain(net.low_weight)} if net.low_weight != 1 else {}
    configs = {str(rung.mode): rung.config.to_dict() for rung in net.ladder.rungs}
    low = {"configs": configs} if len(configs) > 1 else {"config": next(iter(configs.values()))}
    return {**low, "schedule": described, **weight, **_growth(net)}


def _growth(net: LowModeModel) -> dict[str, Any]:
    """Images of each mode's batch over a full one's, and the rule of its rate, where batches grow."""
    if not net.batches_grow:
        return {}
    multiplier = net.batch_multiplier
    return {
        "batch_multiplier": multiplier if isinstance(multiplier, str) else _plain(multiplier),
        "lr_rule": net.lr_rule,
    }


def _plain(weight: float | Mapping[str, float]) -> float | dict[str, float]:
    return dict(weight) if isinstance(weight, Mapping) else weight
