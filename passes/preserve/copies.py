"""Copies of a model that run without changing it."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from passes.preserve.holdings import find_holdings

Copied = TypeVar("Copied")


def copy_apart(value: Copied, model: nn.Module, *, meta: bool = False) -> Copied:
    """A deep copy of ``value``, which holds ``model``: whatever the copy's forward does, the model does not change.

    ``meta``: parameters and buffers are meta tensors in the copy, which take no memory and have no values.
    """
    memo: dict[int, Any] = computed_copies(model)
    if meta:
        memo |= {id(tensor): _on_meta(tensor) for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(value, memo)


def computed_copies(model: nn.Module) -> dict[int, Any]:
    """Copies of computed tensors that a model holds, for the memo of ``copy.deepcopy``, which refuses them.

    A forward may leave some, and pruning and weight norms by hooks keep their kernels so.
    """
    found = find_holdings(model).tensors
    return {id(tensor): tensor.detach().clone() for tensor in found if tensor.grad_fn is not None}


def copy_spread_out(value: Copied, model: nn.Module) -> Copied:
    """``copy_apart`` on the CPU of a model on the meta device: each weight is one zero, expanded to its shape.

    So it takes next to no memory until it runs. Buffers are dense zeros, since forwards write to them.
    """
    memo: dict[int, Any] = {}
    for tensor in (*find_holdings(model).tensors, *model.parameters(), *model.buffers()):
        if isinstance(tensor, nn.Parameter):
            blank = torch.zeros((), dtype=tensor.dtype, device="cpu").expand(tensor.shape)
            memo[id(tensor)] = nn.Parameter(blank, tensor.requires_grad)
        elif tensor.is_meta:
            memo[id(tensor)] = torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
    return copy.deepcopy(value, memo)


def _on_meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
