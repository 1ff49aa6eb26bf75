"""Restore values of tensors in place: copied in advance, or recorded when they are overwritten."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from passes.preserve.restorers import Restorer, restore_all
from passes.torch_internals import written_tensors


def value_restorers(tensors: Iterable[Tensor]) -> list[Restorer]:
    """Whole storages are copied, each once, so that views and their base stay consistent."""
    real = {_identity(tensor): tensor for tensor in tensors if not tensor.is_meta and not nn.parameter.is_lazy(tensor)}
    return [_value_restorer(tensor) for tensor in real.values()]


def handle_restorers(tensors: Iterable[Tensor]) -> list[Restorer]:
    """For the memory that tensors use, and their part in a backward pass; copies nothing."""
    return [
        partial(_restore_handle, tensor, tensor.detach(), tensor.requires_grad, tensor.grad_fn)
        for tensor in tensors
        if not nn.parameter.is_lazy(tensor)
    ]


class WriteJournal(TorchDispatchMode):
    """Inside, records what tensors hold before it is overwritten; ``undo`` restores it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._noted: dict[object, Restorer] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        for tensor in written_tensors(func, args, options):
            if not tensor.is_meta and _identity(tensor) not in self._noted:
                self._noted[_identity(tensor)] = _value_restorer(tensor)
        return func(*args, **options)

    def undo(self) -> None:
        """Call it outside the context."""
        restore_all(self._noted.values())


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor is only its storage, without data that a subclass adds."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided


def _identity(tensor: Tensor) -> object:
    if not _is_plain(tensor):
        return id(tensor)
    return tensor.device, tensor.untyped_storage().data_ptr()


def _value_restorer(tensor: Tensor) -> Restorer:
    if not _is_plain(tensor):
        return partial(_copy_back, tensor, tensor.detach().clone())
    storage = tensor.untyped_storage()
    return partial(_refill_storage, storage, storage.clone())


def _copy_back(tensor: Tensor, held: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(held)


def _refill_storage(storage: torch.UntypedStorage, held: torch.UntypedStorage) -> None:
    # Below autograd, so that a backward pass that needs these values still finds them.
    if storage.nbytes() != held.nbytes():
        storage.resize_(held.nbytes())
    storage.copy_(held)


def _restore_handle(tensor: Tensor, alias: Tensor, requires_grad: bool, grad_fn: object) -> None:
    if _is_plain(tensor) and not tensor.is_meta and not tensor.is_set_to(alias):
        tensor.data = alias
    if tensor.grad_fn is not None and grad_fn is None:
        tensor.detach_()
    if tensor.is_leaf and tensor.requires_grad != requires_grad:
        tensor.requires_grad_(requires_grad)
