"""The call of a convolution with its pooled kernel, which gives exactly the same output size.

Plain arithmetic in one record: a graph pass makes nodes from it, live lowering makes calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from passes.calls import ConvCall, Padding
from passes.depthwise_gradient import depthwise_conv2d, has_many_taps, is_faster
from passes.kernel_math import pooled_padding
from passes.pooling_rule import PoolingRule


class PooledConv(NamedTuple):
    """The replacement of a convolution.

    ``kernel_function(kernel, *kernel_arguments)`` is the pooled kernel. ``pad``: amounts of ``F.pad`` for the input, if
    any (negative amounts crop). ``function`` takes input, kernel, bias and ``arguments``. ``margins``: amounts of
    ``F.pad`` for the output, if any. Pixels outside the convolution hold the bias, so it is added after the padding,
    and the convolution gets none.
    """

    kernel_function: Callable[..., Tensor]
    kernel_arguments: tuple[Any, ...]
    pad: tuple[int, ...] | None
    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    margins: tuple[int, ...] | None = None


def run_pooled(pooled: PooledConv, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The pooled convolution of tensors, ``weight`` being the full kernel: the calls of a graph's nodes."""
    kernel = pooled.kernel_function(weight, *pooled.kernel_arguments)
    source = input if pooled.pad is None else F.pad(input, list(pooled.pad))
    if has_many_taps(pooled.function, kernel) and is_faster(source, kernel, pooled.arguments[-1]):
        return depthwise_conv2d(source, kernel, bias, *pooled.arguments[:-1])
    if pooled.margins is None:
        return pooled.function(source, kernel, bias, *pooled.arguments)
    padded = F.pad(pooled.function(source, kernel, None, *pooled.arguments), list(pooled.margins))
    return padded if bias is None else padded + bias.view(-1, *(1,) * (kernel.ndim - 2))


def pooled_conv(call: ConvCall[Any], rule: PoolingRule) -> PooledConv:
    """The convolution with its kernel pooled by ``rule``; its output size is exactly that of the unpooled one."""
    pooled = rule.pooled(call.kernel)
    return _pooled_transposed(call, pooled, rule) if call.transposed else _pooled(call, pooled, rule)


def _pooled(call: ConvCall[Any], pooled: tuple[int, ...], rule: PoolingRule) -> PooledConv:
    padding = tuple(
        pooled_padding(before, after, size, target, dilation)
        for (before, after), size, target, dilation in zip(
            call.padding, call.kernel, pooled, call.dilation, strict=True
        )
    )
    # Symmetric padding stays with the convolution.
    even = all(before == after >= 0 for before, after in padding)
    own = tuple(before if even else 0 for before, _ in padding)
    arguments = (call.stride, own, call.dilation, call.groups)
    return PooledConv(
        *rule.kernel_call(pooled, call.dilation), None if even else _flat(padding), call.function, arguments
    )


def _pooled_transposed(call: ConvCall[Any], pooled: tuple[int, ...], rule: PoolingRule) -> PooledConv:
    """The same for a transposed convolution, whose padding crops the output instead of widening the input.

    The raw output loses d(K−K') pixels; padding and output padding restore them where possible.
    """
    margins = []
    for size, target, dilation, (crop, _), extra in zip(
        call.kernel, pooled, call.dilation, call.padding, call.output_padding, strict=True
    ):
        removed = dilation * (size - target)
        before = removed // 2
        margins.append((before - crop, removed - before - crop + extra))
    limits = [max(stride, dilation) for stride, dilation in zip(call.stride, call.dilation, strict=True)]
    fits = all(before <= 0 <= after - before < limit for (before, after), limit in zip(margins, limits, strict=True))
    crops = tuple(-before if fits else 0 for before, _ in margins)
    extras = tuple(after - before if fits else 0 for before, after in margins)
    arguments = (call.stride, crops, extras, call.groups, call.dilation)
    return PooledConv(
        *rule.kernel_call(pooled, call.dilation),
        None,
        call.function,
        arguments,
        None if fits else _flat(tuple(margins)),
    )


def _flat(amounts: Padding) -> tuple[int, ...]:
    """In the order of ``F.pad``: the last dimension first."""
    return tuple(amount for pair in reversed(amounts) for amount in pair)
