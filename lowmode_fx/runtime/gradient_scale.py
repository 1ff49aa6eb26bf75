"""Scale gradients without changing values: the weight of low steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from passes.trees import tree_map


def scale_gradient(outputs: Any, weight: float) -> Any:
    """Return the same tensors in the same structure; gradients through them are multiplied by ``weight``.

    This scales every gradient of the loss through the outputs, but not a penalty on the weights themselves. Tensors in
    objects that are not containers (``passes.trees``) are left alone.
    """
    if weight == 1:
        return outputs

    def scaled(value: Any) -> Any:
        return _Scaled.apply(value, weight) if isinstance(value, Tensor) and value.requires_grad else value

    return tree_map(scaled, outputs)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return tensor.clone()  # not a view, so that a loss may work in place

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.weight, None
