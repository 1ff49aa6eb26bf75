"""Detection and classification networks of ultralytics, called as its trainer does: with a batch, for a loss."""

from __future__ import annotations

import importlib
import os
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

from bench.zoo.extras import imported

SHAPE: tuple[int, ...] = (3, 128, 128)
CLASSES = 4

#: The smallest scale of each generation; with ``-cls`` a classifier.
_MODELS = ("yolov3-tiny", "yolov5n", "yolov8n", "yolov8n-ghost", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n")
_CLASSIFIERS = ("yolov8n-cls", "yolo11n-cls", "yolo12n-cls", "yolo26n-cls", "yolov8-cls-resnet50")


def names() -> list[str]:
    """Names of the networks. Raises ``ValueError`` if ultralytics is not installed."""
    _tasks()
    return [*_MODELS, *_CLASSIFIERS]


def create(name: str) -> nn.Module:
    """The network of that name. Raises ``ValueError`` for an unknown name, or if ultralytics is not installed."""
    tasks = _tasks()
    if name not in (*_MODELS, *_CLASSIFIERS):
        raise ValueError(f"ultralytics:{name} is unknown; give one of {', '.join((*_MODELS, *_CLASSIFIERS))}")
    kind = tasks.ClassificationModel if name in _CLASSIFIERS else tasks.DetectionModel
    model: nn.Module = kind(f"{name}.yaml", nc=CLASSES, verbose=False)
    model.args = importlib.import_module("ultralytics.cfg").get_cfg()  # the loss's weights, which its trainer sets
    return model


def example(name: str, images: Tensor) -> tuple[dict[str, Any]]:
    """A batch of ``images`` ``(N, 3, H, W)``, each with a class, or two boxes (centres and sides, parts of it)."""
    if name in _CLASSIFIERS:
        return ({"img": images.sigmoid(), "cls": torch.arange(len(images)) % CLASSES},)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.6, 0.3, 0.5]]).repeat(len(images), 1)
    batch = {
        "img": images.sigmoid(),
        "cls": (torch.arange(len(boxes)) % CLASSES).float()[:, None],
        "bboxes": boxes,
        "batch_idx": torch.arange(len(images)).repeat_interleave(2).float(),
    }
    return (batch,)


def _tasks() -> Any:
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())  # folder of its settings
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    imported("ultralytics")
    return importlib.import_module("ultralytics.nn.tasks")
