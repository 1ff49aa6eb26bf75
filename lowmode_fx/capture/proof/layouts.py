"""Layouts of tensors: how their elements lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

#: Sides, strides, dtype and device of a tensor in its own memory.
Layout = tuple[Sequence[int], Sequence[int], torch.dtype, torch.device]


def layout_of(tensor: Tensor) -> Layout:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def row_major(sides: Sequence[int], like: Tensor) -> Layout:
    return tuple(sides), _strides(sides), like.dtype, like.device


def _strides(sides: Sequence[int]) -> tuple[int, ...]:
    return tuple(prod(sides[place + 1 :]) for place in range(len(sides)))


def fits(shape: Sequence[int], wide: Sequence[int]) -> bool:
    """Whether ``shape`` broadcasts to ``wide``."""
    pairs = zip(reversed(shape), reversed(wide), strict=False)
    return len(shape) <= len(wide) and all(side in (1, other) for side, other in pairs)


def alike(first: Tensor, *others: Tensor) -> bool:
    """Whether all have the same floating dtype and are on the same CPU or GPU."""
    same = all(each.dtype is first.dtype and each.device == first.device for each in others)
    return same and first.is_floating_point() and first.device.type in ("cpu", "cuda")


def is_row_major(tensor: Tensor) -> bool:
    return is_in_order(tensor) and tensor.stride() == _strides(tensor.shape)


def is_in_order(tensor: Tensor) -> bool:
    """Whether the elements lie in row-major order, maybe with gaps, or with sides that are expanded."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return False
    step = 1
    for side, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if 0 < stride < step:
            return False
        step = stride * side or step
    return True
