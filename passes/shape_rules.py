"""Shape rules of torch's most common functions, for those that are slow on meta tensors.

A rule takes its function's arguments and returns an empty meta tensor with the result's shape and dtype, or
``NotImplemented`` for anything unusual: then torch's own function runs, with its own errors. Norms, activations and
attention take torch up to 1.5 ms a call on meta tensors; convolutions and pools take a few hundredths, and need no
rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from passes.calls import spatial
from passes.kernel_math import average_kernel, bicubic_kernel, center_kernel, linear_kernel, pi_resize_kernel

Rule = Callable[..., Any]


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _like(value: Tensor) -> Tensor:
    return value.detach() if value.is_meta else torch.empty_like(value, device="meta")


def _elementwise(input: Any, *others: Any, **options: Any) -> Any:
    # A second tensor may broadcast, and a dtype may change the result's.
    unusual = any(isinstance(value, Tensor | torch.dtype) for value in (*others, *options.values()))
    return _like(input) if isinstance(input, Tensor) and input.is_floating_point() and not unusual else NotImplemented


def _prelu(input: Tensor, weight: Tensor) -> Any:
    fits = weight.numel() == 1 or (input.ndim > 1 and weight.shape == input.shape[1:2])
    return _like(input) if fits and weight.dtype == input.dtype else NotImplemented


def _arithmetic(input: Any, other: Any, **options: Any) -> Any:
    if options or not isinstance(input, Tensor) or not input.is_floating_point():
        return NotImplemented
    if isinstance(other, int | float):
        return _like(input)
    if not isinstance(other, Tensor) or other.dtype != input.dtype:
        return NotImplemented
    return _like(input) if other.shape == input.shape else _broadcast(input, other)


def _broadcast(input: Tensor, other: Tensor) -> Any:
    shape = _broadcast_shape(input.shape, other.shape)
    return NotImplemented if shape is None else _empty(shape, input.dtype)


def _broadcast_shape(shape: Sequence[int], other: Sequence[int]) -> tuple[int, ...] | None:
    rank = max(len(shape), len(other))
    ours, theirs = ((1,) * (rank - len(each)) + tuple(each) for each in (shape, other))
    sides = list(zip(ours, theirs, strict=True))
    return None if any(a != b and 1 not in (a, b) for a, b in sides) else tuple(b if a == 1 else a for a, b in sides)


def _batch_norm(input: Tensor, a: Any, b: Any, c: Any = None, d: Any = None, training: bool = False, *_: Any) -> Any:
    # Statistics, weight and bias, in either order: one number per channel. Training needs two values per channel.
    channels = input.shape[1]
    fits = all(vector is None or tuple(vector.shape) == (channels,) for vector in (a, b, c, d))
    return _like(input) if fits and (not training or input.numel() > channels) else NotImplemented


def _functional_batch_norm(
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    return _batch_norm(input, running_mean, running_var, weight, bias, training)


def _layer_norm(input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    sides = tuple(normalized_shape)
    fits = all(value is None or tuple(value.shape) == sides for value in (weight, bias))
    return _like(input) if fits and tuple(input.shape[-len(sides) :]) == sides else NotImplemented


def _group_norm(input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    channels = input.shape[1]
    fits = all(value is None or tuple(value.shape) == (channels,) for value in (weight, bias))
    return _like(input) if fits and channels % num_groups == 0 and input[0].numel() > num_groups else NotImplemented


def _linear(input: Tensor, weight: Tensor, bias: Any = None) -> Any:
    fits = weight.ndim == 2 and input.ndim > 1 and input.shape[-1] == weight.shape[1] and input.dtype == weight.dtype
    return _empty((*input.shape[:-1], weight.shape[0]), input.dtype) if fits else NotImplemented


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *_: Any, **options: Any) -> Any:
    same = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.shape[-1] == key.shape[-1]
    if not same or key.shape[-2] != value.shape[-2] or options.get("enable_gqa"):
        return NotImplemented
    scores = (*query.shape[:-1], key.shape[-2])
    if attn_mask is not None and _broadcast_shape(attn_mask.shape, scores) != scores:
        return NotImplemented
    return _empty((*query.shape[:-1], value.shape[-1]), query.dtype)


def _reduction(input: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    dims = (dim,) if isinstance(dim, int) else dim
    if options or not isinstance(dims, tuple | list) or not dims or not input.is_floating_point():
        return NotImplemented
    if not all(isinstance(each, int) and -input.ndim <= each < input.ndim for each in dims):
        return NotImplemented
    gone = {each % input.ndim for each in dims}
    kept = (1 if index in gone else side for index, side in enumerate(input.shape) if keepdim or index not in gone)
    return _empty(list(kept), input.dtype)


def _concatenation(tensors: Any, dim: int = 0) -> Any:
    if not isinstance(tensors, tuple | list) or not all(isinstance(each, Tensor) for each in tensors):
        return NotImplemented
    first, *others = tensors
    if not -first.ndim <= dim < first.ndim:
        return NotImplemented
    axis = dim % first.ndim
    rest = (*first.shape[:axis], *first.shape[axis + 1 :])
    for other in others:
        alike = other.ndim == first.ndim and other.dtype == first.dtype
        if not alike or (*other.shape[:axis], *other.shape[axis + 1 :]) != rest:
            return NotImplemented
    total = sum(each.shape[axis] for each in tensors)
    return _empty((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)


def _adaptive_pool(dims: int) -> Rule:
    def rule(input: Tensor, output_size: Any) -> Any:
        sizes = spatial(output_size, dims) if isinstance(output_size, int) else tuple(output_size)
        if len(sizes) != dims or input.ndim != dims + 2 or not all(isinstance(side, int) for side in sizes):
            return NotImplemented
        return _empty((*input.shape[:2], *sizes), input.dtype)

    return rule


def _pooled_kernel(weight: Tensor, pooled: tuple[int, ...], *_: Any) -> Tensor:
    return _empty((*weight.shape[:2], *pooled), weight.dtype)


_ELEMENTWISE = (
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh, F.softplus),
    *(F.dropout, F.sigmoid, F.tanh, F.softmax),
    *(torch.relu, torch.sigmoid, torch.tanh, torch.sqrt, torch.exp, torch.softmax),
    *(Tensor.relu, Tensor.sigmoid, Tensor.tanh, Tensor.sqrt, Tensor.softmax, Tensor.clamp),
)
_ARITHMETIC = (
    *(torch.add, torch.sub, torch.mul, torch.div),
    *(Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.__add__, Tensor.__sub__, Tensor.__mul__),
)
#: function → its rule; functions that write to a tensor in place have none.
SHAPE_RULES: dict[Any, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    F.prelu: _prelu,
    F.batch_norm: _functional_batch_norm,
    torch.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.linear: _linear,
    F.scaled_dot_product_attention: _attention,
    **dict.fromkeys((torch.mean, torch.sum, Tensor.mean, Tensor.sum), _reduction),
    torch.cat: _concatenation,
    F.adaptive_avg_pool1d: _adaptive_pool(1),
    F.adaptive_avg_pool2d: _adaptive_pool(2),
    F.adaptive_avg_pool3d: _adaptive_pool(3),
    **dict.fromkeys((average_kernel, center_kernel, linear_kernel, bicubic_kernel, pi_resize_kernel), _pooled_kernel),
}
