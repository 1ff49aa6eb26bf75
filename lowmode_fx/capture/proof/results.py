"""Results of operators on fakes, computed once for arguments of the same layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.capture.proof.values import Key
from passes.torch_internals import fake_of
from passes.trees import tree_leaves

#: Sides, strides, dtype and device of a tensor in its own memory.
Layout = tuple[Sequence[int], Sequence[int], torch.dtype, torch.device]
_FIRST_ARGUMENT, _VIEW = "the first argument itself", "a view of the first argument"


class Results:
    """The results under one mode. Torch's own cache of such results checks more and takes much longer to look up."""

    def __init__(self, mode: Any) -> None:
        self._mode = mode
        self._known: dict[Key, Any] = {}

    def of(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], layouts: Key) -> Any:
        """``func`` on fakes; ``layouts``: everything about its arguments except which memory they are in."""
        key = (func, layouts)
        if key not in self._known:
            by_rule = _RULES[func](*args) if func in _RULES and not kwargs else None
            if by_rule is None:
                result = func(*args, **kwargs)
                turns = torch.Tag.inplace_view in func.tags  # turns an argument into a view of itself
                self._known[key] = None if turns else _kind(result, args, kwargs)
                return result
            self._known[key] = by_rule
        known = self._known[key]
        if known is None:
            return func(*args, **kwargs)
        if known is _FIRST_ARGUMENT:
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
        return _FIRST_ARGUMENT
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    memory = {id(tensor.untyped_storage()) for tensor in tensors}
    first = args[0] if args else None
    if isinstance(first, Tensor) and _shares_memory(result, first):
        return _VIEW
    results = result if type(result) is tuple else (result,)
    layouts = [None if each is None else _layout(each) if _is_new(each, memory) else ... for each in results]
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


def _layout(tensor: Tensor) -> Layout:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


# Torch decomposes batch norms, which takes a third of a proof's time.


def _batch_norm(
    images: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any
) -> list[Layout | None] | None:
    if not training or not _alike(images, weight, bias, mean, var):
        return None
    statistics = ((images.shape[1],), (1,), images.dtype, images.device)
    return [_layout(images), statistics, statistics]


def _batch_norm_backward(
    gradient: Tensor, images: Tensor, weight: Any, mean: Any, var: Any, saved_mean: Any, saved_var: Any, *rest: Any
) -> list[Layout | None] | None:
    training, _, wanted = rest
    tensors = (images, gradient, weight, mean, var, saved_mean, saved_var)
    if not training or not _alike(*tensors) or gradient.stride() != images.stride():
        return None
    of_weight = ((images.shape[1],), (1,), images.dtype, images.device)
    layouts = (_layout(images), of_weight, of_weight)
    return [layout if each else None for layout, each in zip(layouts, wanted, strict=True)]


def _alike(images: Tensor, *others: Any) -> bool:
    formats = (torch.contiguous_format, torch.channels_last) if images.ndim == 4 else (torch.contiguous_format,)
    dense = any(images.is_contiguous(memory_format=each) for each in formats)
    return dense and all(each is None or each.dtype is images.dtype for each in others)


_RULES: dict[Any, Callable[..., list[Layout | None] | None]] = {
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_batch_norm_backward.default: _batch_norm_backward,
}
