"""Autograd's gradient accumulation nodes, and the stream that they run on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def renew_accumulators(parameters: Iterable[Tensor]) -> None:
    """Let the next forward create new gradient accumulation nodes, on the stream that it runs on.

    A graph that is still alive (a loss that somebody keeps, a backward that has just ended) keeps these nodes, and with
    them their stream, which a recording on another stream can't wait for. Values, memory, versions and hooks of the
    parameters stay; a hook on a node itself stays with the old node.
    """
    for parameter in parameters:
        if parameter.requires_grad and parameter.is_leaf:
            data = parameter.data
            # Autograd drops the node of a tensor whose dtype has changed.
            parameter.data = data.new_empty(0, dtype=torch.float32 if data.dtype != torch.float32 else torch.float64)
            parameter.data = data
