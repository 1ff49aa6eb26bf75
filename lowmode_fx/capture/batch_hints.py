"""Examples that are a call of the model, and hold an image without a batch or of another dtype."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from lowmode_fx.capture.inputs import Leaf, ModelInputs
from lowmode_fx.capture.live_frontend import record
from lowmode_fx.capture.part_hints import named_part, part_hint
from lowmode_fx.capture.signature import optional_arguments
from lowmode_fx.utils.dtypes import weights_dtype, weights_hint
from passes.calls import conv_call
from passes.match import conv_sites
from passes.preserve import train_mode
from passes.spelling import in_command

_CONVS = nn.modules.conv._ConvNd
#: How models ask for an argument that was left out, unlike torch, which speaks of sizes and inputs too.
_ASKED = re.compile(r"\b(none|missing|needs?|provide|required?|specify)\b", re.IGNORECASE)
_BATCH = "give images (N, C, *S), as image.unsqueeze(0)"


def check_batched(model: nn.Module, graph_module: fx.GraphModule, inputs: ModelInputs) -> None:
    """Refuse images ``(C, *S)``, whose channels would pass for a batch: one side less would be downsampled.

    Their first side is no batch if a convolution finds other channels where it is longer. Images of a batch may be
    convolved one by one, and get their channels in the model. Raises ``ValueError``.
    """
    dims = {len(site.kernel) for site in conv_sites(graph_module)}
    for leaf in inputs.leaves:
        if leaf.is_image and len(leaf.shape) - 1 in dims and _has_other_channels(model, inputs.with_more_images()):
            hint = _BATCH if _takes(model, inputs, leaf) else part_hint(model, leaf.shape)
            raise ValueError(f"{leaf.name} is {leaf.shape}, an image without a batch; {hint}")


def failure_hint(model: nn.Module, inputs: ModelInputs, cause: str) -> str:
    """What to try where the model fails on an example; empty if its images are as they should be.

    ``cause``: the model's error, which may name an argument that was left out, such as a detector's targets.
    """
    given = {leaf.path[0] for leaf in inputs.leaves}
    for name in optional_arguments(model):
        if name not in given and _ASKED.search(cause) and re.search(rf"\b{name}\b", cause):
            return named_part(model, inputs.image.shape) or f"give {name} in the example too, as one of its arguments"
    images = [leaf for leaf in inputs.leaves if leaf.is_image]
    dtype = weights_dtype(model)
    if dtype is not None and {leaf.dtype for leaf in images} != {dtype}:
        told = weights_hint(model) if in_command() else ""  # whose images are its own
        return told or f"give images of the weights' dtype, as images.to({dtype})"
    dims = {len(module.kernel_size) for module in model.modules() if isinstance(module, _CONVS)}
    if len(dims) == 1 and any(len(leaf.shape) - 1 in dims for leaf in images):
        return f"if this is an image without a batch, {_BATCH}"
    return ""


def _has_other_channels(model: nn.Module, inputs: ModelInputs) -> bool:
    """Whether a convolution of the model is given other channels than it has, on this call."""
    watch = _ChannelWatch()
    with watch:
        _runs(model, inputs)
    return watch.found


def _takes(model: nn.Module, inputs: ModelInputs, leaf: Leaf) -> bool:
    """Whether the model takes two images of the leaf's shape as a batch."""
    batched = (replace(each, shape=(2, *each.shape)) if each is leaf else each for each in inputs.leaves)
    return _runs(model, replace(inputs, leaves=tuple(batched)))


def _runs(model: nn.Module, inputs: ModelInputs) -> bool:
    """Whether the model, which is left as it was, takes this call."""
    with warnings.catch_warnings(), train_mode(model), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        record(model, inputs, inputs.blank_for(model))
        return True
    return False


class _ChannelWatch(TorchFunctionMode):
    """``found``: whether a convolution was given other channels than its kernel has."""

    found: bool = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = conv_call(func, args, kwargs or {}, lambda kernel: tuple(kernel.shape))
        if call is not None and isinstance(call.input, Tensor):
            self.found |= call.input.shape[-len(call.kernel) - 1] != call.in_channels
        return func(*args, **(kwargs or {}))
