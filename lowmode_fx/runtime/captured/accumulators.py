"""Where autograd adds up a parameter's gradient, and on which stream it does so."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def renew_accumulators(parameters: Iterable[Tensor]) -> None:
    """Let the next forward make the nodes anew that add up gradients, on the stream that it runs on.

    A graph that is still alive (a loss that somebody keeps, a hook, a backward that has just ended) keeps these nodes,
    and their stream with them, which a recording on another stream can't wait for. Values, memory, versions and hooks
    of the parameters stay.
    """
    for parameter in parameters:
        if parameter.requires_grad and parameter.is_leaf:
            data = parameter.data
            # Autograd lets go of a node whose tensor has changed its type.
            parameter.data = data.new_empty(0, dtype=torch.float32 if data.dtype != torch.float32 else torch.float64)
            parameter.data = data
