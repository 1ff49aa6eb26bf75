"""The same geometry for transposed convolutions, whose padding crops the output instead of widening the input."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import fx

from passes.match import ConvSite


def pool_conv_transpose(graph: fx.Graph, site: ConvSite, weight: fx.Node, pooled: tuple[int, ...]) -> None:
    """Give a transposed convolution the pooled kernel and exactly the unpooled one's output size, centres aligned.

    The raw output loses d(K−K') pixels; where padding and output padding can't give them back, the output is padded
    with what an untouched pixel holds: the bias. Call it inside ``graph.inserting_before(site.node)``.
    """
    margins = []
    for size, target, dilation, (crop, _), extra in zip(
        site.kernel, pooled, site.dilation, site.padding, site.output_padding, strict=True
    ):
        removed = dilation * (size - target)
        before = removed // 2
        margins.append((before - crop, removed - before - crop + extra))
    node = site.node
    node.target, node.kwargs = site.function, {}
    limits = [max(stride, dilation) for stride, dilation in zip(site.stride, site.dilation, strict=True)]
    if all(before <= 0 <= after - before < limit for (before, after), limit in zip(margins, limits, strict=True)):
        padding = tuple(-before for before, _ in margins)
        extra_out = tuple(after - before for before, after in margins)
        node.args = (site.input, weight, site.bias, site.stride, padding, extra_out, site.groups, site.dilation)
        node.meta["unpooled"] = site
        return
    zeros = (0,) * len(pooled)
    node.args = (site.input, weight, None, site.stride, zeros, zeros, site.groups, site.dilation)
    last = _after(graph, node, F.pad, [amount for sides in reversed(margins) for amount in sides])
    if site.bias is not None:
        column = graph.call_method("view", (site.bias, -1, *(1,) * len(pooled)))
        last = _after(graph, last, operator.add, column)
    last.meta["unpooled"] = site


def _after(graph: fx.Graph, node: fx.Node, function: Callable[..., Any], argument: Any) -> fx.Node:
    """Insert ``function(node, argument)`` behind ``node``, for everyone who read ``node``."""
    with graph.inserting_after(node):
        result = graph.call_function(function, (node, argument))
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)
    return result
