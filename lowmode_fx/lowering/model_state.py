"""The state of a model that a graph may hold as constants; when it changes, a proof of the graph is void."""

from __future__ import annotations

import zlib
from collections import OrderedDict, deque
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from passes.torch_internals import version_of

_VALUES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, type)
_SEQUENCES = (list, tuple, deque)
_CODE = (FunctionType, BuiltinFunctionType, MethodType)
_REGISTRIES = ("_modules", "_parameters", "_buffers")
#: Depth to which nested containers are followed.
_DEPTH = 3


def model_state(model: nn.Module) -> list[Any]:
    """Modules, their train or eval modes, attributes, hooks and kinds of tensors.

    Two states are equal if nothing has changed except the values of tensors, which graphs read.
    """
    found: list[Any] = []
    for module in model.modules():
        held = module.__dict__
        found += (_Same(module), type(module), *held["_modules"])
        for registry in (held["_parameters"], held["_buffers"]):
            found += ((name, _tensor(value)) for name, value in registry.items())
        for name, value in held.items():
            if name not in _REGISTRIES and not (type(value) is OrderedDict and not value):
                found.append((name, _state(value, _DEPTH)))
    return found


def _state(value: Any, depth: int) -> Any:
    if isinstance(value, _VALUES):
        return value
    if isinstance(value, Tensor):
        return (_Same(value), _tensor(value), version_of(value))
    if isinstance(value, np.ndarray):
        held = value.tolist() if value.dtype == object else zlib.crc32(np.ascontiguousarray(value).tobytes())
        return (value.shape, value.dtype, held)
    if isinstance(value, (*_CODE, nn.Module)) or depth == 0:
        return value.__func__ if isinstance(value, MethodType) else _Same(value)
    if isinstance(value, dict):
        return [(_state(key, 0), _state(each, depth - 1)) for key, each in value.items()]
    if isinstance(value, _SEQUENCES):
        return [_state(each, depth - 1) for each in value]
    if isinstance(value, set | frozenset):
        return [_Same(value), len(value)]
    attributes = getattr(value, "__dict__", None)
    return [_Same(value), *_attributes(attributes, depth - 1)] if attributes else _Same(value)


def _attributes(attributes: dict[str, Any], depth: int) -> Iterator[Any]:
    yield from ((name, _state(each, depth)) for name, each in attributes.items())


def _tensor(value: Tensor | None) -> Any:
    return None if value is None else (value.shape, value.dtype, value.device, value.requires_grad)


class _Same:
    """Equal only to itself. It keeps a reference, so that no other object gets the same ``id``."""

    __slots__ = ("_held",)

    def __init__(self, held: Any) -> None:
        self._held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._held is self._held

    __hash__ = None  # type: ignore[assignment]
