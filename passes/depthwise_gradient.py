"""Depthwise convolutions on a CPU, with the gradients of large kernels by products of matrices.

The gradient of one tap is a sum over all pairs of pixels that the tap connects. torch's kernels take the taps one by
one. Where a kernel is about as large as its map, as in low-mode, it is several times faster to multiply every pixel of
the input with every pixel of the output's gradient, for all images in one product, and to sum what one tap connects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from passes.calls import conv_call
from passes.torch_internals import in_forward_mode, is_jit_tracing

#: By measurement: the least taps and multiply-adds that are worth it; pairs whose sums take as long as one product.
_LEAST_TAPS, _LEAST_WORK, _SUMS = 25, 2**21, 80
#: How many times longer than a product torch takes for a pair: in channels_last, elsewhere, and with many taps on a
#: side, 15 or more, where its fast kernels end.
_TIMES_LONGER_LAST, _TIMES_LONGER, _TIMES_LONGER_WIDE, _WIDE = 6, 10, 30, 15
#: Pairs of pixels that are in memory at once.
_MOST_PAIRS = 2**24
_DTYPES = (torch.float32, torch.bfloat16)
Sides = tuple[int, ...]


def convolve(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The call of a convolution as it is, with the faster gradient of its kernel where there is one."""
    if has_many_taps(func, args[1] if len(args) > 1 else kwargs["weight"]):
        call = conv_call(func, args, kwargs, lambda weight: tuple(weight.shape))
        assert call is not None
        if is_faster(call.input, call.weight, call.groups) and all(before == after for before, after in call.padding):
            padding = tuple(before for before, _ in call.padding)
            return depthwise_conv2d(call.input, call.weight, call.bias, call.stride, padding, call.dilation)
    return func(*args, **kwargs)


def depthwise_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sides, padding: Sides, dilation: Sides
) -> Tensor:
    """``F.conv2d`` with one group a channel. The kernel's gradient differs from it by rounding, nothing else does."""
    if torch.is_autocast_enabled("cpu"):
        dtype = _dtype(input)
        input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    result: Tensor = _DepthwiseConv.apply(input, weight, bias, stride, padding, dilation)
    return result


def has_many_taps(function: Any, weight: Tensor) -> bool:
    """Whether the gradient of a kernel may be faster by products, for some inputs."""
    return function is F.conv2d and weight.shape[1] == 1 and weight.shape[2] * weight.shape[3] >= _LEAST_TAPS


def is_faster(input: Tensor, weight: Tensor, groups: Any) -> bool:
    """Whether it is faster for a kernel that ``has_many_taps``."""
    if not (weight.requires_grad and torch.is_grad_enabled() and type(input) is Tensor and input.ndim == 4):
        return False
    if input.device.type != "cpu" or weight.shape[0] != groups or _is_traced() or in_forward_mode():
        return False
    dtype = _dtype(input)
    if dtype != _dtype(weight) or dtype not in _DTYPES:
        return False
    images, pixels, taps = input.shape[0], input.shape[2] * input.shape[3], weight.shape[2] * weight.shape[3]
    longer = _TIMES_LONGER if dtype == torch.bfloat16 or input.is_contiguous() else _TIMES_LONGER_LAST
    if max(weight.shape[2:]) >= _WIDE:
        longer = _TIMES_LONGER_WIDE
    return input.numel() * taps >= _LEAST_WORK and pixels * (images + _SUMS) < longer * taps * images


def _is_traced() -> bool:
    """Whether a graph is being made that may be saved: it holds torch's convolution."""
    if torch.compiler.is_dynamo_compiling():  # where older versions of torch say that they export, whatever they do
        return False
    return torch.compiler.is_exporting() or is_jit_tracing()


def _dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that a convolution of a tensor computes in, as autocast has it."""
    cast = torch.is_autocast_enabled("cpu") and tensor.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if cast else tensor.dtype


def kernel_gradient(
    input: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sides, padding: Sides, dilation: Sides
) -> Tensor:
    """The gradient ``(C, 1, *K)`` of depthwise kernels from their input ``(N, C, H, W)`` and their output's gradient.

    ``kernel``: its sides K.
    """
    pairs = input.shape[1] * math.prod(input.shape[2:]) * math.prod(grad.shape[2:])
    parts = min(math.ceil(pairs / _MOST_PAIRS), input.shape[1])
    if parts <= 1:
        return _gradient(input, grad, kernel, stride, padding, dilation)
    both = zip(input.chunk(parts, 1), grad.chunk(parts, 1), strict=True)
    return torch.cat([_gradient(*each, kernel, stride, padding, dilation) for each in both])


def _gradient(
    input: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sides, padding: Sides, dilation: Sides
) -> Tensor:
    sums = torch.bmm(_by_channel(input), _by_channel(grad).transpose(1, 2))
    sums = sums.view(-1, *input.shape[2:], *grad.shape[2:])  # (C, H, W, H', W'), of all images
    for dim, (taps, pixels) in enumerate(zip(kernel, grad.shape[2:], strict=True), start=1):
        around, step, spacing = padding[dim - 1], stride[dim - 1], dilation[dim - 1]
        sums = F.pad(sums, (*(0, 0) * (sums.ndim - 1 - dim), around, around))
        # For each tap, the pixels of the input that it connects with those of the output, in their order.
        windows = sums.unfold(dim, step * (pixels - 1) + 1, spacing).narrow(dim, 0, taps)
        if step > 1:
            windows = windows[..., ::step]
        sums = windows.diagonal(dim1=3, dim2=-1).sum(-1)
    return sums.unsqueeze(1)


def _by_channel(maps: Tensor) -> Tensor:
    """``(N, C, H, W) → (C, H × W, N)``. Copies of a transposed matrix are fast."""
    images, channels, height, width = maps.shape
    if maps.is_contiguous():
        return maps.view(images, -1).t().contiguous().view(channels, -1, images)
    flat = maps.permute(0, 2, 3, 1).reshape(images, -1).t().contiguous()
    return flat.view(height * width, channels, images).transpose(0, 1)


class _DepthwiseConv(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sides, padding: Sides, dilation: Sides
    ) -> Tensor:
        return F.conv2d(input, weight, bias, stride, padding, dilation, weight.shape[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _, *ctx.arguments = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        grad, (for_input, for_weight, for_bias) = grads[0], ctx.needs_input_grad[:3]
        with torch.autocast("cpu", enabled=False):  # a backward pass computes in the dtypes of the forward
            # torch's kernel of the bias' gradient computes that of the weight too.
            of_input = torch.ops.aten.convolution_backward(
                *(grad, input, weight, None, *ctx.arguments, False, [0, 0], weight.shape[0]), [for_input, False, False]
            )[0]
            of_weight = kernel_gradient(input, grad, weight.shape[2:], *ctx.arguments) if for_weight else None
            return of_input, of_weight, grad.sum((0, 2, 3)) if for_bias else None, None, None, None
