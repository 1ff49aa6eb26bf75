"""Eager low-mode: the model runs eagerly, and each convolution call is replaced as it happens, without a plan.

It shares the arithmetic of kernels and padding with the passes, and nothing else: no tracing, no matching of nodes or
parameters. If live lowering or a low graph agrees with it, every convolution was found and got the right input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from passes.calls import CONV_ARGUMENTS, CONV_TRANSPOSE_ARGUMENTS, spatial
from passes.kernel_math import average_kernel, pooled_padding, pooled_size, same_padding
from passes.ratios import RatioLike, side_ratios

_CONVS = {torch.conv1d, torch.conv2d, torch.conv3d}
_TRANSPOSED = {torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d}
FED, TRAINED = "fed by a convolution", "reached by a parameter that trains"


class EagerLowMode(TorchFunctionMode):
    """Inside, every convolution runs as in a low-mode of ratio ``ratio`` with default options; norms are unchanged.

    ``untouched``: ids of the weights that keep their size, those of modules that are not traced into.
    """

    def __init__(self, ratio: RatioLike, untouched: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self._ratio, self._untouched = ratio, untouched

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func not in _CONVS and func not in _TRANSPOSED:
            given = (*args, *options.values())
            marks = [mark for mark in (FED, TRAINED) if any(_is_marked(value, mark) for value in given)]
            result = func(*args, **options)
            for mark in marks:
                _mark(result, mark)
            return result
        names = CONV_TRANSPOSE_ARGUMENTS if func in _TRANSPOSED else CONV_ARGUMENTS
        call = {"bias": None, "padding": 0, **dict(zip(names, args, strict=False)), **options}
        pooled = self._pooled_sizes(call, func in _TRANSPOSED)
        if pooled is not None:
            smaller = average_kernel(call["weight"], pooled, self._ratio)
            if func in _TRANSPOSED:
                result = _pooled_transposed_conv(func, call, smaller)
            else:
                result = _pooled_conv(func, call, smaller)
        else:
            result = func(**call)
        _mark(result, FED)
        _mark(result, TRAINED)
        return result

    def _pooled_sizes(self, call: Mapping[str, Any], transposed: bool) -> tuple[int, ...] | None:
        """K' of each side; ``None`` if this call keeps its kernel."""
        weight: Tensor = call["weight"]
        kernel, groups = tuple(weight.shape[2:]), call.get("groups", 1)
        stride = spatial(call.get("stride", 1), len(kernel))
        pooled = tuple(map(pooled_size, kernel, side_ratios(self._ratio, len(kernel))))
        depthwise = groups > 1 and groups == (weight.shape[0] if transposed else weight.shape[1] * groups)
        if pooled == kernel or not _is_marked(call["input"], FED) or id(weight) in self._untouched:
            return None
        if not _is_marked(weight, TRAINED):  # a fixed filter of the image, as Sobel's or a blur
            return None
        if all(k <= s for k, s in zip(kernel, stride, strict=True)) or (depthwise and math.prod(pooled) == 1):
            return None
        holes = transposed and any(k < s for k, s in zip(pooled, stride, strict=True))
        return None if holes else pooled


def _pooled_conv(func: Callable[..., Tensor], call: dict[str, Any], weight: Tensor) -> Tensor:
    kernel, dims = call["weight"].shape[2:], weight.ndim - 2
    dilation = spatial(call.get("dilation", 1), dims)
    if call["padding"] == "same":
        padding = [same_padding(*sides) for sides in zip(kernel, dilation, strict=True)]
    else:
        padding = [(side, side) for side in spatial(0 if call["padding"] == "valid" else call["padding"], dims)]
    sides = list(zip(padding, kernel, weight.shape[2:], dilation, strict=True))
    smaller = [pooled_padding(*pair, size, target, step) for pair, size, target, step in sides]
    if all(before == after >= 0 for before, after in smaller):
        return func(**{**call, "weight": weight, "padding": [before for before, _ in smaller]})
    padded = F.pad(call["input"], [amount for pair in reversed(smaller) for amount in pair])
    return func(**{**call, "input": padded, "weight": weight, "padding": 0})


def _pooled_transposed_conv(func: Callable[..., Tensor], call: dict[str, Any], weight: Tensor) -> Tensor:
    kernel, dims = call["weight"].shape[2:], weight.ndim - 2
    names = ("padding", "output_padding", "dilation")
    crop, extra, dilation = (spatial(call.get(name, int(name == "dilation")), dims) for name in names)
    margins = []
    for size, target, before, more, step in zip(kernel, weight.shape[2:], crop, extra, dilation, strict=True):
        # Padding crops a transposed convolution's output.
        first, last = pooled_padding(before, before - more, size, target, step)
        margins.append((-first, -last))
    whole = func(**{**call, "weight": weight, "bias": None, "padding": 0, "output_padding": 0})
    result = F.pad(whole, [amount for pair in reversed(margins) for amount in pair])
    return result if call["bias"] is None else result + call["bias"].reshape(-1, *(1,) * dims)


def _is_marked(value: Any, mark: str) -> bool:
    """Whether a tensor comes from a convolution (``FED``) or a trainable parameter (``TRAINED``)."""
    if isinstance(value, list | tuple):
        return any(_is_marked(each, mark) for each in value)
    if mark == TRAINED and isinstance(value, nn.Parameter):
        return value.requires_grad
    return isinstance(value, Tensor) and mark in getattr(value, "marks", ())


def _mark(value: Any, mark: str) -> None:
    if isinstance(value, list | tuple):
        for each in value:
            _mark(each, mark)
    elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        value.marks = (*getattr(value, "marks", ()), mark)  # type: ignore[attr-defined]
