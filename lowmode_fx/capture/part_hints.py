"""The part of a model to build modes of, where the model itself takes no batch of images alone."""

from __future__ import annotations

import contextlib
import warnings

import torch
from torch import nn

from passes.preserve import preserve_state, train_mode
from passes.spelling import setting

_CONVS = nn.modules.conv._ConvNd


def part_hint(model: nn.Module, image: tuple[int, ...]) -> str:
    """What to give instead of the model. ``image``: shape ``(N, C, *S)`` or ``(C, *S)`` of an example."""
    named = named_part(model, image)
    return named or f"give the part that takes batches as {setting('submodule')}, and images (N, C, *S) for it"


def named_part(model: nn.Module, image: tuple[int, ...]) -> str:
    """The same with the name of the part; empty if the child with the most convolutions takes no such images."""
    counts = {name: len(_convs(child)) for name, child in model.named_children()}
    name = max(counts, key=lambda each: counts[each], default="")
    if counts.get(name, 0) < 2:
        return ""
    part = model.get_submodule(name)
    shape = image if len(image) == len(_convs(part)[0].kernel_size) + 2 else (2, *image)
    if not _takes(part, shape):
        return ""
    return f"give the part that takes batches, {setting('submodule', name)}, and images (N, C, *S) for it"


def _convs(module: nn.Module) -> list[nn.modules.conv._ConvNd]:
    return [each for each in module.modules() if isinstance(each, _CONVS)]


def _takes(part: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the part, which is left as it was, takes images of this shape."""
    weight = _convs(part)[0].weight
    with contextlib.suppress(Exception), warnings.catch_warnings(), preserve_state(part), train_mode(part):
        warnings.simplefilter("ignore")
        with torch.no_grad():
            part(torch.zeros(shape, dtype=weight.dtype, device=weight.device))
        return True
    return False
