"""Tensors of given layouts, and the layouts of results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def empty(*shape: int, dtype: torch.dtype = torch.float32, memory_format: Any = torch.contiguous_format) -> Tensor:
    return torch.empty(shape, dtype=dtype).contiguous(memory_format=memory_format)


def layout(result: Any) -> Any:
    """Sides, strides (0 along a single element), offset, dtype and device of each tensor in a result."""
    if isinstance(result, Tensor):
        strides = tuple(0 if side == 1 else step for side, step in zip(result.shape, result.stride(), strict=True))
        return result.shape, strides, result.storage_offset(), result.dtype, result.device
    return [layout(each) for each in result] if isinstance(result, list | tuple) else result
