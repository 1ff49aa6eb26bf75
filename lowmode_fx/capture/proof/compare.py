"""Compares two Python structures part by part; the caller compares tensors."""

from __future__ import annotations

import functools
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowmode_fx.capture.proof.copies import NotedHook
from passes.preserve.generators import generator_state

_SINGLE = (type, types.ModuleType, types.BuiltinFunctionType, torch.dtype, torch.layout, torch.memory_format)
_PLAIN = (int, float, complex, str, bytes, type(None), torch.device)
_SEQUENCES = (list, tuple, deque)

#: Describes the difference of two tensors; ``None`` if they are the same.
TensorDifference = Callable[[Tensor, Tensor], str | None]
Parts = list[tuple[str, Any]]


def difference(model: Any, graph: Any, tensors: TensorDifference, path: str) -> str | None:
    """The first part in which the model's structure differs from the graph's, as ``path: words``."""
    return _difference(model, graph, tensors, path, {})


def tensors_within(value: Any) -> Iterator[Tensor]:
    """Every tensor that can be reached from ``value``, each once."""
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen or isinstance(each, (*_SINGLE, *_PLAIN)):
            continue
        seen[id(each)] = each
        if isinstance(each, Tensor):
            yield each
        else:
            waiting.extend(part for _, part in parts(each))


def _difference(model: Any, graph: Any, tensors: TensorDifference, path: str, seen: dict[Any, Any]) -> str | None:
    if model is graph and not isinstance(model, Tensor):
        return None  # it was not copied, so both runs share it
    if type(model) is not type(graph) or isinstance(model, _PLAIN):
        same = type(model) is type(graph) and (model == graph or (model != model and graph != graph))
        return None if same else f"{path}: {_told(model)} in the model, {_told(graph)} in the graph"
    if (id(model), id(graph)) in seen or isinstance(model, _SINGLE):
        return None
    seen[id(model), id(graph)] = (model, graph)  # kept, so that ids are not reused
    if isinstance(model, Tensor):
        found = tensors(model, graph)
        return None if found is None else f"{path}: {found}"
    if isinstance(model, set | frozenset):
        return None if model == graph else f"{path}: the elements differ between graph and model"
    ours, theirs = parts(model), parts(graph)
    names, others = [name for name, _ in ours], [name for name, _ in theirs]
    if names != others:
        for side, here, there in (("model", names, others), ("graph", others, names)):
            for name in here:
                if name not in there:
                    return f"{_join(path, name)}: in the {side} only"
        return f"{path}: the order differs between graph and model"
    for (name, one), (_, other) in zip(ours, theirs, strict=True):
        found = _difference(one, other, tensors, _join(path, name), seen)
        if found is not None:
            return found
    return None


def parts(value: Any) -> Parts:
    """The parts of ``value`` by name; empty if it can't be inspected."""
    if isinstance(value, nn.Module):
        own = dict(value.__dict__)
        registries = [own.pop(registry) for registry in ("_parameters", "_buffers", "_modules")]
        return [*(item for registry in registries for item in registry.items()), *own.items()]
    if isinstance(value, dict):
        return [(f"[{_key(key)}]", each) for key, each in value.items()] + _attributes(value)
    if isinstance(value, _SEQUENCES):
        return [(f"[{place}]", each) for place, each in enumerate(value)] + _attributes(value)
    if isinstance(value, types.FunctionType):
        return _closed_over(value)
    if isinstance(value, types.MethodType):
        return [("function", value.__func__), ("owner", value.__self__)]
    if isinstance(value, NotedHook):
        return [("hook", value.hook)]
    if isinstance(value, functools.partial):
        return [("function", value.func), ("arguments", value.args), ("keywords", value.keywords)]
    state = generator_state(value)
    if state is not None:
        return [("state", state)]
    if isinstance(value, np.ndarray):
        return [("shape", value.shape), ("elements", value.tolist() if value.dtype == object else value.tobytes())]
    return _attributes(value) or _reduced(value)


def _attributes(value: Any) -> Parts:
    slots = _slots(type(value))  # type: ignore[arg-type]
    slotted = [(slot, getattr(value, slot)) for slot in slots if hasattr(value, slot)]
    return [*getattr(value, "__dict__", {}).items(), *slotted]


@functools.cache
def _slots(kind: type) -> tuple[str, ...]:
    slots = [slot for each in kind.__mro__ for slot in _as_tuple(getattr(each, "__slots__", ()))]
    return tuple(slot for slot in slots if slot[:2] != "__")


def _closed_over(function: types.FunctionType) -> Parts:
    found = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found.append((name, cell.cell_contents))
        except ValueError:  # an empty cell
            continue
    return found


def _reduced(value: Any) -> Parts:
    # Iterators and similar objects give their parts if they can be copied at all.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reduced = value.__reduce_ex__(2)
    except Exception:
        return []
    if isinstance(reduced, str):
        return []
    return [(f"part {place}", part) for place, part in enumerate(reduced[1:3]) if part is not None]


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _key(key: Any) -> str:
    return repr(key) if isinstance(key, _PLAIN) else type(key).__name__


def _join(path: str, name: str) -> str:
    return f"{path}{name}" if name.startswith("[") or not path else f"{path}.{name}"


def _told(value: Any) -> str:
    kind = "tensor" if isinstance(value, Tensor) else type(value).__name__
    text = repr(value) if isinstance(value, _PLAIN) else f"a {kind}"
    return text if len(text) <= 40 else f"{text[:37]}..."
