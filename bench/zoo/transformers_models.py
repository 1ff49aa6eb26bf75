"""Convolutional networks of transformers, from small configurations, called with ``pixel_values`` and ``labels``."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from bench.zoo.extras import imported

SHAPE: tuple[int, ...] = (3, 96, 96)
LABELS = 10

_BIT = {"embedding_size": 32, "num_groups": 8, "hidden_sizes": [32, 64, 64, 128], "depths": [1, 1, 2, 1]}
_STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
#: name → (stem of the classes' names, arguments of its configuration)
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet_basic": ("ResNet", {"embedding_size": 16, "layer_type": "basic", **_STAGES}),
    "resnet_bottleneck": ("ResNet", {"embedding_size": 16, "layer_type": "bottleneck", **_STAGES}),
    "regnet_x": ("RegNet", {"embedding_size": 16, "groups_width": 16, "layer_type": "x", **_STAGES}),
    "regnet_y": ("RegNet", {"embedding_size": 16, "groups_width": 16, "layer_type": "y", **_STAGES}),
    "convnext": ("ConvNext", _STAGES),
    "convnextv2": ("ConvNextV2", _STAGES),
    "mobilenetv1": ("MobileNetV1", {"depth_multiplier": 0.25}),
    "mobilenetv2": ("MobileNetV2", {"depth_multiplier": 0.35}),
    "efficientnet": ("EfficientNet", {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640}),
    "bit_preactivation": ("Bit", _BIT),
    "bit_bottleneck": ("Bit", {**_BIT, "layer_type": "bottleneck"}),
    "poolformer": ("PoolFormer", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}),
}


def names() -> list[str]:
    """Names of the networks. Raises ``ValueError`` if transformers is not installed."""
    imported("transformers")
    return list(_MODELS)


def create(name: str) -> nn.Module:
    """A classifier of that name. Raises ``ValueError`` for an unknown name, or if transformers is not installed."""
    imported("transformers")
    if name not in _MODELS:
        raise ValueError(f"transformers:{name} is unknown; give one of {', '.join(_MODELS)}")
    stem, options = _MODELS[name]
    transformers = importlib.import_module("transformers")
    config = getattr(transformers, f"{stem}Config")(num_labels=LABELS, **options)
    model: nn.Module = getattr(transformers, f"{stem}ForImageClassification")(config)
    return model


def example(name: str, images: Tensor) -> dict[str, Tensor]:
    """The call of a training step on ``images`` ``(N, 3, H, W)``."""
    return {"pixel_values": images, "labels": torch.arange(len(images)) % LABELS}
