"""Results of operators on fakes, computed once for arguments of the same layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.capture.proof.layouts import layout_of
from lowmode_fx.capture.proof.rules import FIRST_ARGUMENT, aten, by_rule
from lowmode_fx.capture.proof.values import Key
from passes.torch_internals import fake_of
from passes.trees import tree_leaves

_VIEW = "a view of the first argument"
#: Views that are never anything else.
_VIEWS = frozenset((aten.detach.default, aten.expand.default, aten.t.default, aten.transpose.int, aten.view.default))


class Results:
    """The results under one mode. Torch's own cache of such results checks more and takes much longer to look up."""

    def __init__(self, mode: Any) -> None:
        self._mode = mode
        self._known: dict[Key, Any] = {}

    def of(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], layouts: Key) -> Any:
        """``func`` on fakes; ``layouts``: everything about its arguments except which memory they are in."""
        key = (func, layouts)
        if key not in self._known:
            ruled = None if kwargs else _VIEW if func in _VIEWS else by_rule(func, args)
            if ruled is None:
                result = func(*args, **kwargs)
                turns = torch.Tag.inplace_view in func.tags  # turns an argument into a view of itself
                self._known[key] = None if turns else _kind(result, args, kwargs)
                return result
            self._known[key] = ruled
        known = self._known[key]
        if known is None:
            return func(*args, **kwargs)
        if known is FIRST_ARGUMENT:
            return args[0]
        if known is _VIEW:
            return fake_of(self._mode, args[0].device, lambda: func(*args, **kwargs))
        if isinstance(known, list):
            return tuple(None if layout is None else self.empty(*layout) for layout in known)
        return self.empty(*known)

    def empty(
        self,
        shape: Sequence[int],
        strides: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        dense: bool = False,
    ) -> Tensor:
        """A fake in new memory; ``dense``: no two elements share a place, and there are no gaps."""

        def make() -> Tensor:
            meta = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
            return torch.empty_like(meta) if dense else meta

        return fake_of(self._mode, device, make)


def _kind(result: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """How to make such a result again; ``None`` if torch has to compute it each time."""
    if args and result is args[0]:
        return FIRST_ARGUMENT
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    memory = {id(tensor.untyped_storage()) for tensor in tensors}
    first = args[0] if args else None
    if isinstance(first, Tensor) and _shares_memory(result, first):
        return _VIEW
    results = result if type(result) is tuple else (result,)
    layouts = [None if each is None else layout_of(each) if _is_new(each, memory) else ... for each in results]
    if ... in layouts:
        return None
    return layouts if type(result) is tuple else layouts[0]


def _shares_memory(result: Any, tensor: Tensor) -> bool:
    return isinstance(result, Tensor) and result.untyped_storage() is tensor.untyped_storage()


def _is_new(result: Any, memory: set[int]) -> bool:
    if not isinstance(result, Tensor) or result.layout is not torch.strided:
        return False
    storage = result.untyped_storage()
    return id(storage) not in memory and storage.nbytes() == result.numel() * result.itemsize
