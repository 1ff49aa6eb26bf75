"""Watches tensors that a recorded step reads: a replay reads the memory that they had, as they were."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from passes.torch_internals import unchanged_tensors

_HOOKS = tuple(map(operator.attrgetter, ("_backward_hooks", "_post_accumulate_grad_hooks")))


class TensorWatch:
    """The memory of tensors, their sizes, strides and dtypes, whether they require gradients, and their hooks."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._memory = list(map(Tensor.data_ptr, self._tensors))
        self._unchanged = unchanged_tensors(self._tensors)
        self._properties = self._read_properties()
        self._hooks = self._count_hooks()

    def changed(self) -> str | None:
        """What has changed, besides hooks, if anything has."""
        if list(map(Tensor.data_ptr, self._tensors)) != self._memory:
            return "the memory of a tensor"
        if self._unchanged is not None and self._unchanged():
            return None
        return None if self._read_properties() == self._properties else "the shape, dtype or requires_grad of a tensor"

    def hooks_changed(self) -> bool:
        """Whether a tensor has got its first hook. Those that have some are containers that are watched."""
        return self._count_hooks() != self._hooks

    def _read_properties(self) -> list[Any]:
        return [(each.requires_grad, each.dtype, each.device, *_layout(each)) for each in self._tensors]

    def _count_hooks(self) -> list[int]:
        return list(map(len, tensor_hooks(self._tensors).values()))


def tensor_hooks(tensors: Iterable[Tensor]) -> dict[Any, Any]:
    """The hooks on tensors, by any key."""
    found = ((id(each), place, read(each)) for each in tensors for place, read in enumerate(_HOOKS))
    return {(key, place): hooks for key, place, hooks in found if hooks}


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    plain = tensor.layout is torch.strided and not tensor.is_nested
    return (tensor.shape, tensor.stride()) if plain else (tensor.layout,)
