"""Meta tensors instead of real ones, function by function: code runs, and nothing is computed or written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from passes.shape_rules import SHAPE_RULES
from passes.torch_internals import device_constructors


class MetaTensorMode(TorchFunctionMode):
    """Inside, every function of torch gets meta tensors instead of real ones, and creates new ones on the meta device.

    So a module runs with its own parameters, buffers and counters, and none of them is read or changed. Code that reads
    a value (``item()``) raises. ``SHAPE_RULES`` give the results of functions that are slow on meta tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self._constructors = device_constructors()
        # The real tensor is kept with its meta tensor, so that its id is not reused.
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        rule = SHAPE_RULES.get(func)
        if rule is not None:
            result = rule(*args, **options)
            if result is not NotImplemented:
                return result
        if func in self._constructors:
            options = {**options, "device": "meta"}
        return func(*self._swap(args), **{name: self._swap(value) for name, value in options.items()})

    def of(self, tensor: Tensor) -> Tensor:
        """The meta tensor for ``tensor``, the same one each time; a meta tensor itself."""
        if tensor.is_meta:
            return tensor
        known = self._known.get(id(tensor))
        if known is None:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            self._known[id(tensor)] = known = (tensor, empty)
        return known[1]

    def _swap(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.of(value)
        if type(value) in (tuple, list):
            return type(value)(self._swap(each) for each in value)
        return value
