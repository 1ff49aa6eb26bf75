"""Layouts of operators' results by rule, for tensors in row-major order: torch takes a millisecond for each.

A rule gives ``None`` where torch has to be asked: other layouts, mixed dtypes, and arguments that torch refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.capture.proof.layouts import Layout, alike, fits, is_in_order, is_row_major, layout_of, row_major

#: One result, several with ``None`` for those that are left out, or words for one in memory that exists.
Kind = Layout | list[Layout | None] | str
#: The result is the first argument.
FIRST_ARGUMENT = "the first argument itself"

aten = torch.ops.aten


def by_rule(func: Any, args: Sequence[Any]) -> Kind | None:
    """What the result of ``func`` on fakes is like; ``None`` if there is no rule for these arguments."""
    rule = _RULES.get(func)
    return None if rule is None else rule(*args)


def _pointwise(*args: Any) -> Layout | None:
    tensors = [each for each in args if isinstance(each, Tensor)]
    widest = max(tensors, key=Tensor.numel)
    numbers = not any(isinstance(each, complex) for each in args)
    broadcast = all(fits(each.shape, widest.shape) and is_in_order(each) for each in tensors)
    return row_major(widest.shape, widest) if numbers and broadcast and alike(*tensors) else None


def _in_place(first: Tensor, *args: Any) -> Kind | None:
    result = _pointwise(first, *args) if is_row_major(first) else None
    return FIRST_ARGUMENT if result is not None and result[0] == first.shape else None


def _reduction(images: Tensor, dims: Sequence[int] | None, keep: bool = False) -> Layout | None:
    count = images.ndim
    if not dims or not all(-count <= dim < count for dim in dims) or not alike(images) or not is_row_major(images):
        return None
    reduced = {dim % count for dim in dims}
    if len(reduced) < len(dims):
        return None
    sides = [1 if dim in reduced else side for dim, side in enumerate(images.shape) if keep or dim not in reduced]
    return row_major(sides, images)


def _convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int],
    transposed: bool,
    _: Sequence[int],
    groups: int,
) -> Layout | None:
    per_side = strides, paddings, dilations
    if transposed or images.ndim != 4 or not _keeps_order(images, weight) or any(len(each) != 2 for each in per_side):
        return None
    channels = weight.shape[0]
    if images.shape[1] != weight.shape[1] * groups or channels % groups or min(*strides, *dilations) < 1:
        return None
    if bias is not None and not (bias.shape == (channels,) and alike(images, bias)):
        return None
    sides = [
        (side + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for side, taps, stride, padding, dilation in zip(images.shape[2:], weight.shape[2:], *per_side, strict=True)
    ]
    return row_major([images.shape[0], channels, *sides], images) if min(sides) > 0 else None


def _convolution_backward(
    gradient: Tensor, images: Tensor, weight: Tensor, bias: Sequence[int] | None, *options: Any
) -> Kind | None:
    if images.ndim != 4 or not _keeps_order(images, weight) or not alike(gradient, images):
        return None
    of_bias = row_major([weight.shape[0]] if bias is None else bias, images)
    layouts = (layout_of(images), layout_of(weight), of_bias)
    return [layout if wanted else None for layout, wanted in zip(layouts, options[-1], strict=True)]


def _batch_norm(
    images: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any
) -> list[Layout | None] | None:
    if not training or not _same_dtype(images, weight, bias, mean, var):
        return None
    statistics = row_major([images.shape[1]], images)
    return [layout_of(images), statistics, statistics]


def _batch_norm_backward(
    gradient: Tensor, images: Tensor, weight: Any, mean: Any, var: Any, saved_mean: Any, saved_var: Any, *rest: Any
) -> list[Layout | None] | None:
    training, _, wanted = rest
    tensors = (images, gradient, weight, mean, var, saved_mean, saved_var)
    if not training or not _same_dtype(*tensors) or gradient.stride() != images.stride():
        return None
    of_weight = row_major([images.shape[1]], images)
    layouts = (layout_of(images), of_weight, of_weight)
    return [layout if each else None for layout, each in zip(layouts, wanted, strict=True)]


def _same_dtype(images: Tensor, *others: Any) -> bool:
    formats = (torch.contiguous_format, torch.channels_last) if images.ndim == 4 else (torch.contiguous_format,)
    dense = any(images.is_contiguous(memory_format=each) for each in formats)
    return dense and all(each is None or each.dtype is images.dtype for each in others)


def _keeps_order(images: Tensor, weight: Tensor) -> bool:
    """Whether a convolution keeps row-major order, whatever computes it."""
    return images.ndim == weight.ndim and alike(images, weight) and is_row_major(images) and is_row_major(weight)


POINTWISE = (
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar),
    *(aten.clone.default, aten.gelu.default, aten.relu.default, aten.sigmoid.default, aten.silu.default),
    *(aten.gelu_backward.default, aten.sigmoid_backward.default, aten.silu_backward.default),
    aten.threshold_backward.default,
)
IN_PLACE = (aten.add_.Tensor, aten.mul_.Tensor, aten.relu_.default, aten.sigmoid_.default, aten.silu_.default)
REDUCTIONS = (aten.mean.dim, aten.sum.dim_IntList)
_RULES: dict[Any, Callable[..., Kind | None]] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(IN_PLACE, _in_place),
    **dict.fromkeys(REDUCTIONS, _reduction),
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
}
