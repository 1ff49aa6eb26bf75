"""The signature of a batch, and the static memory that a captured step reads it from."""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowmode_fx.runtime.captured.arithmetic import Batch
from passes.trees import Structure, tree_flatten, tree_map, tree_unflatten

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Signature(NamedTuple):
    """Two batches of one signature differ only in the values of their tensors."""

    structure: Structure
    leaves: tuple[Hashable, ...]


def flatten(batch: Batch) -> tuple[list[Any], Signature]:
    """A batch's leaves and signature. Raises ``TypeError`` for a leaf that is neither a tensor nor a plain value."""
    args, kwargs, targets = batch
    leaves = [*args, targets]
    if not kwargs and type(args) is tuple and all(isinstance(leaf, Tensor) for leaf in leaves):  # as nearly always
        structure = _of_tensors(len(args))
    else:
        leaves, structure = tree_flatten([args, dict(kwargs), targets])
    return leaves, Signature(structure, tuple(map(_describe, leaves)))


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on ``device``; on a CPU the batch itself."""
    if device.type == "cpu":
        return batch
    moved = tree_map(
        lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf,
        [batch.args, dict(batch.kwargs), batch.targets],
    )
    return Batch(tuple(moved[0]), moved[1], moved[2])


def versions(leaves: list[Any], device: torch.device) -> list[int]:
    """How often each tensor that a step takes as it is, without a copy to ``device``, has been written to."""
    taken = (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.device == device)
    return [leaf._version for leaf in taken if not leaf.is_inference()]


class StaticBatch:
    """Static tensors, into which batches of one signature are copied."""

    def __init__(self, leaves: list[Any], signature: Signature, device: torch.device) -> None:
        self._leaves = [torch.empty_like(leaf, device=device) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._tensors = [(place, leaf) for place, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]
        self._structure = signature.structure

    def fill(self, leaves: list[Any]) -> None:
        """Copy a batch's tensors from any device, without waiting for it."""
        for place, static in self._tensors:
            static.copy_(leaves[place], non_blocking=True)

    def batch(self) -> Batch:
        """The batch that consists of these tensors."""
        args, kwargs, targets = tree_unflatten(self._leaves, self._structure)
        return Batch(tuple(args), kwargs, targets)


@functools.cache
def _of_tensors(args: int) -> Structure:
    """The structure of a batch with this number of arguments, all of which, and the targets, are tensors."""
    return tree_flatten([(None,) * args, {}, None])[1]


def _describe(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        if leaf.requires_grad:
            raise TypeError("an input that requires a gradient")
        if leaf.layout is not torch.strided or leaf.is_nested:
            raise TypeError(f"an input of layout {leaf.layout}")
        return leaf.shape, leaf.stride(), leaf.dtype
    if isinstance(leaf, _CONSTANTS):
        # In words: 0.0 equals -0.0.
        return (type(leaf), repr(leaf) if isinstance(leaf, float | complex) else leaf)
    raise TypeError(f"an input of type {type(leaf).__name__}")
