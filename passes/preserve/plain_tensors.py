"""Copies of the tensors that modules hold outside their registries: a forward that writes to one writes to its copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from passes.preserve.containers import replace_item
from passes.torch_internals import version_of

#: Version counters of a tensor and of its copy.
Versions = tuple[int | None, int | None]


class TensorCopies:
    """One copy per tensor, the same in every step, as compiled code requires."""

    def __init__(self) -> None:
        #: By the id of a tensor: itself, so that its id is not reused, its copy, and the versions of both.
        self._known: dict[int, tuple[Tensor, Tensor, Versions]] = {}

    def put(self, places: Iterable[tuple[Any, Any, Tensor]]) -> None:
        """Put copies into ``places``, containers and keys that hold these tensors; whoever owns them restores them."""
        known, self._known = self._known, {}
        older = {id(tensor.untyped_storage()): copy.untyped_storage() for tensor, copy, _ in known.values()}
        storages: dict[int, torch.UntypedStorage] = {}
        for holder, key, tensor in places:
            if id(tensor) not in self._known:
                before = known.get(id(tensor))
                copy = None if before is None else _refreshed(*before)
                copy = _copied(tensor, storages, older) if copy is None else copy
                self._known[id(tensor)] = (tensor, copy, (version_of(tensor), version_of(copy)))
            replace_item(holder, key, self._known[id(tensor)][1])


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor that no gradient flows through."""
    return type(value) is Tensor and not value.requires_grad and value.layout is torch.strided


def _refreshed(tensor: Tensor, copy: Tensor, versions: Versions) -> Tensor | None:
    if copy.shape != tensor.shape or copy.dtype != tensor.dtype or copy.device != tensor.device:
        return None
    if None not in versions and versions == (version_of(tensor), version_of(copy)):
        return copy
    is_expanded = any(step == 0 and size > 1 for step, size in zip(copy.stride(), copy.shape, strict=True))
    return None if is_expanded else copy.copy_(tensor)  # torch can't write to an expanded tensor


def _copied(
    tensor: Tensor, storages: dict[int, torch.UntypedStorage], older: Mapping[int, torch.UntypedStorage]
) -> Tensor:
    """A copy in new memory, which views of one tensor share; a later view shares the memory of the ``older`` ones."""
    storage = tensor.untyped_storage()
    if id(storage) not in storages:
        shared = older.get(id(storage))
        fits = shared is not None and shared.nbytes() == storage.nbytes()
        storages[id(storage)] = shared.copy_(storage) if fits else storage.clone()  # type: ignore[union-attr]
    with torch.inference_mode(False):  # later steps may train with the copy
        copy = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return copy.set_(storages[id(storage)], tensor.storage_offset(), tensor.shape, tensor.stride())
