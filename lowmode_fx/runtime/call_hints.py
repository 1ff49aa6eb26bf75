"""What is wrong with images on which a forward fails, beside those that the modes were built for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.lowering.ladder import Ladder
from passes.wording import first_line

#: What torch raises for tensors that don't fit each other.
MISFITS = (RuntimeError, ValueError, IndexError)
#: How torch speaks of dtypes that don't fit each other.
_OF_DTYPES = re.compile(r"dtype|type|Double|Float|Half|Byte|Char|Short|Int|Long|Bool")


class MisfitError(ValueError, RuntimeError):
    """Images that a model does not take; also a ``RuntimeError``, as torch's own errors for them are."""


def tell_misfit(ladder: Ladder, args: Sequence[Any], kwargs: Mapping[str, Any], error: Exception) -> None:
    """Raise ``MisfitError`` if this call of the ladder's model failed by ``error`` for images of another kind."""
    told = None
    if _is_torchs(error):
        with contextlib.suppress(ValueError):  # a call without images
            told = _difference(ladder, ladder.inputs.first_image(args, kwargs), str(error))
    if told is None:
        return
    difference, hint = told
    # A compiler's own words are about its work.
    cause = "" if type(error).__module__.startswith("torch._dynamo") else f" ({first_line(error)})"
    raise MisfitError(f"{type(ladder.model).__name__} fails on {difference}{cause}; {hint}") from error


def _is_torchs(error: Exception) -> bool:
    """Whether an operator of torch, one of its layers or its compiler fails: a model's own errors stay as they are."""
    if isinstance(error, torch.OutOfMemoryError):  # of images of any kind
        return False
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = "" if place is None else str(place.tb_frame.f_globals.get("__name__"))
    return module.partition(".")[0] == "torch" or type(error) is RuntimeError


def _difference(ladder: Ladder, images: Tensor, cause: str) -> tuple[str, str] | None:
    """How images differ from those that the modes were built for, and what to do; ``None`` if by number or size."""
    built, shape = ladder.inputs.image.shape, tuple(images.shape)
    expected = f"images (N, {', '.join(map(str, built[1:]))})"
    if len(shape) == len(built) - 1:
        return f"{shape}, an image without a batch", f"give {expected}, as image.unsqueeze(0)"
    if len(shape) == len(built) and shape[1] != built[1] == shape[-1]:
        order = ", ".join(map(str, (0, len(shape) - 1, *range(1, len(shape) - 1))))
        return f"images {shape}, whose channels are last", f"give {expected}, as images.permute({order})"
    if len(shape) != len(built) or shape[1] != built[1]:
        channels = f", of {shape[1]} channel{'s' * (shape[1] != 1)}" if len(shape) == len(built) else ""
        return (
            f"images {shape}{channels}",
            f"give {expected}, for which its modes were built, or build a model for yours",
        )
    weight = next((value for value in ladder.model.parameters() if value.is_floating_point()), None)
    if _OF_DTYPES.search(cause) is None:
        return None
    if weight is not None and images.dtype != weight.dtype and not torch.is_autocast_enabled(images.device.type):
        return f"images of {images.dtype}, with weights of {weight.dtype}", f"give images.to({weight.dtype})"
    return None
