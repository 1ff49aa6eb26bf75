"""Values that depend on no input and no parameter: a graph holds them as constants, a model may compute them."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.capture.proof.values import Key
from passes.torch_internals import without_modes
from passes.trees import tree_map

#: A larger tensor is hardly a table of constants, and slow to compute.
_LIMIT = 1 << 20
#: Operators whose results are uninitialised memory.
_UNWRITTEN = ("empty", "new_empty", "resize")


def constant(tensor: Tensor) -> tuple[Key, ...]:
    """The leaf for a real tensor that is not the model's: its contents, or its identity on a device."""
    storage = tensor.untyped_storage()
    if tensor.device.type == "cpu":
        return ("constant", hashlib.sha1(ctypes.string_at(storage.data_ptr(), storage.nbytes())).hexdigest())
    return ("constant", f"storage {id(storage)}")


class Constants:
    """The memory of constants, by the number of their value."""

    def __init__(self) -> None:
        self._memory: dict[int, torch.UntypedStorage] = {}

    def keep(self, value: int, tensor: Tensor) -> None:
        """``value`` is the value of a real ``tensor``."""
        self._memory[value] = tensor.untyped_storage()

    def hold(self, values: Iterable[int]) -> bool:
        """Whether all these values are known."""
        return all(value in self._memory for value in values)

    def computed(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        values: Mapping[int, int],
        results: Sequence[Any],
    ) -> Sequence[Tensor] | None:
        """The result of an operator on constants only; ``None`` if it is too large, or not the same each time.

        ``values``: of each tensor among the arguments, by its id. ``results``: its fake results.
        """
        if not all(map(_is_small, results)) or func._schema.name.partition("::")[2].startswith(_UNWRITTEN):
            return None
        given = (list(args), dict(kwargs))
        with without_modes(), torch.no_grad():
            real, options = tree_map(
                lambda each: self._real(each, values[id(each)]) if isinstance(each, Tensor) else each, given
            )
            computed = func(*real, **options)
        found = computed if isinstance(computed, list | tuple) else (computed,)
        return found if all(map(_lies_alike, found, results)) else None

    def _real(self, fake: Tensor, value: int) -> Tensor:
        real = torch.empty(0, dtype=fake.dtype)
        return real.set_(self._memory[value], fake.storage_offset(), fake.shape, fake.stride())


def _is_small(result: Any) -> bool:
    return isinstance(result, Tensor) and result.device.type == "cpu" and result.numel() * result.itemsize <= _LIMIT


def _lies_alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.stride() == other.stride() and one.dtype is other.dtype
