"""Rewire a transposed convolution for a pooled kernel."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import fx

from passes.match import ConvSite
from passes.pooled_calls import transposed_geometry


def pool_conv_transpose(graph: fx.Graph, site: ConvSite, weight: fx.Node, pooled: tuple[int, ...]) -> None:
    """Give a transposed convolution the pooled kernel and exactly the unpooled one's output size, centres aligned.

    Call it inside ``graph.inserting_before(site.node)``.
    """
    padding, output_padding, margins = transposed_geometry(site, pooled)
    bias = site.bias if margins is None else None
    node = site.node
    node.target, node.kwargs = site.function, {}
    node.args = (site.input, weight, bias, site.stride, padding, output_padding, site.groups, site.dilation)
    last = node
    if margins is not None:
        last = _after(graph, node, F.pad, list(margins))
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
