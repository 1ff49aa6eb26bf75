"""Names of the zoos, and what each model is fed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

import timm
import torchvision
from torch import nn

Source = Literal["timm", "torchvision"]
#: Two images at a time are no classification: optical flow is left out, and quantised copies are the same networks.
_LEFT_OUT = ("raft_", "quantized_")


def model_names(sources: Sequence[str], pattern: str = "*") -> list[str]:
    """Names of every model of the sources that the glob matches. Raises ``ValueError`` where there is none."""
    names = []
    for source in sources:
        if source == "timm":
            names += timm.list_models()
        elif source == "torchvision":
            names += [
                f"torchvision:{name}" for name in torchvision.models.list_models() if not name.startswith(_LEFT_OUT)
            ]
        else:
            raise ValueError(f"source={source!r} is unknown; give 'timm' or 'torchvision'")
    chosen = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name.partition(":")[2], pattern)]
    if not chosen:
        raise ValueError(f"--filter {pattern!r} matches none of {len(names)} models; give a glob, as 'resnet*'")
    return chosen


def family(name: str) -> str:
    """The module that defines the model: ``resnet``, ``convnext``, ``torchvision.segmentation`` …"""
    if not name.startswith("torchvision:"):
        return str(timm.models._registry._model_to_module.get(name, "unknown"))
    module: str = torchvision.models.get_model_builder(name.partition(":")[2]).__module__
    return "torchvision" + module.removeprefix("torchvision.models")


def part(name: str) -> str:
    """The submodule to transform: detection models are pooled in their backbone."""
    return "backbone" if ".detection" in family(name) else ""


def image_shape(name: str, model: nn.Module) -> tuple[int, ...]:
    """``(C, *S)`` that the model was made for."""
    if ".video" in family(name):
        side = 112 if family(name).endswith("resnet") else 224
        return (3, 16, side, side)
    if "ssd300" in name:
        return (3, 300, 300)
    config = getattr(model, "default_cfg", None)
    if config:
        return tuple(config["input_size"])
    return (3, 299, 299) if "inception" in name else (3, 224, 224)
