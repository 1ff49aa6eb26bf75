"""Names of the zoos' models, how each is made, and the call that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol, get_args

import timm
import torch
import torchvision
from torch import Tensor, nn

from bench.zoo import transformers_models, ultralytics_models
from lowmode_fx.cli.models import create_model, default_image_size

Source = Literal["timm", "torchvision", "transformers", "ultralytics"]
#: Left out: optical flow, which takes pairs of images, and quantised copies of the same networks.
_LEFT_OUT = ("raft_", "quantized_")
BATCH = 2


class Extra(Protocol):
    """A zoo that the extra ``zoo`` installs: a module with these functions."""

    SHAPE: tuple[int, ...]

    def names(self) -> list[str]: ...

    def create(self, name: str) -> nn.Module: ...

    def example(self, name: str, images: Tensor) -> Any: ...


_EXTRAS: dict[str, Extra] = {"transformers": transformers_models, "ultralytics": ultralytics_models}


def model_names(sources: Sequence[str], pattern: str = "*") -> list[str]:
    """Names of every model of the sources that the glob matches.

    Raises ``ValueError`` if there is none, or a source is unknown or not installed.
    """
    names = []
    for source in sources:
        if source == "timm":
            names += timm.list_models()
        elif source == "torchvision":
            names += [f"{source}:{name}" for name in torchvision.models.list_models() if not name.startswith(_LEFT_OUT)]
        elif source in _EXTRAS:
            names += [f"{source}:{name}" for name in _EXTRAS[source].names()]
        else:
            raise ValueError(f"source={source!r} is unknown; give one of {', '.join(get_args(Source))}")
    chosen = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name.partition(":")[2], pattern)]
    if not chosen:
        raise ValueError(f"--filter {pattern!r} matches none of {len(names)} models; give a glob, as 'resnet*'")
    return chosen


def source(name: str) -> str:
    """The zoo that a name is from."""
    return name.partition(":")[0] if ":" in name else "timm"


def family(name: str) -> str:
    """The module that defines the model: ``resnet``, ``convnext``, ``torchvision.segmentation`` …"""
    zoo, _, own = name.rpartition(":")
    if zoo in _EXTRAS:
        return zoo
    if not zoo:
        return str(timm.models._registry._model_to_module.get(name, "unknown"))
    module: str = torchvision.models.get_model_builder(own).__module__
    return "torchvision" + module.removeprefix("torchvision.models")


def part(name: str) -> str:
    """The submodule to transform: torchvision's detection models are pooled in their backbone."""
    return "backbone" if ".detection" in family(name) else ""


def create(name: str) -> nn.Module:
    """The whole model, with random weights. Raises ``ValueError`` if it can't be built."""
    extra = _EXTRAS.get(source(name))
    return create_model(name) if extra is None else extra.create(name.partition(":")[2])


def image_shape(name: str, model: nn.Module) -> tuple[int, ...]:
    """The image shape ``(C, *S)`` that the model was made for."""
    if source(name) in _EXTRAS:
        return _EXTRAS[source(name)].SHAPE
    if ".video" in family(name):
        side = 112 if family(name).endswith("resnet") else 224
        return (3, 16, side, side)
    if "ssd300" in name:
        return (3, 300, 300)
    return (3, *default_image_size(model, name))


def example(name: str, shape: tuple[int, ...]) -> Any:
    """The model's call with two images of ``shape`` ``(C, *S)``, as ``build_pair`` takes it."""
    images = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(0))
    extra = _EXTRAS.get(source(name))
    return images if extra is None else extra.example(name.partition(":")[2], images)
