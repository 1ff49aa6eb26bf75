"""Scale gradients and nothing else: the weight of low steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


def scale_gradient(outputs: Any, weight: float) -> Any:
    """The same tensors, in the same structure; gradients that come back through them are multiplied by ``weight``.

    So every gradient of a step is, whatever the loss: it is linear in what comes back through the outputs.
    """
    if weight == 1:
        return outputs

    def scaled(tensor: Tensor) -> Any:
        return _Scaled.apply(tensor, weight) if tensor.requires_grad else tensor

    return tree_map_only(Tensor, scaled, outputs)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.weight, None
