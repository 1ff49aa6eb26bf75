"""What can be compared of a model, of what it returns and of the world: values in order, without their objects."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import itertools
import math
import random
import types
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

#: What moves on with each draw, whoever draws.
GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
REGISTRIES = ("_parameters", "_buffers", "_modules")
#: What ``torch.compile`` writes on a module that it is given.
_MARKS = ("_is_torch_compile",)
_OPAQUE = (types.ModuleType, types.GeneratorType, types.FrameType, torch.dtype, torch.device)


@dataclass(frozen=True)
class Leaf:
    """A value that is equal or not."""

    value: Any


@dataclass(frozen=True)
class Moving(Leaf):
    """A generator's state, which moves on with each draw."""


@dataclass(frozen=True)
class Values:
    """A tensor's values and what it is; ``in_graph`` where some backward goes through it."""

    values: Tensor
    what: str
    in_graph: bool


@dataclass(frozen=True)
class Tree:
    """Anything that holds something, by the names or places of what it holds."""

    what: str
    items: dict[str, Frozen]


Frozen = Leaf | Values | Tree


def freeze(value: Any, above: tuple[int, ...] = ()) -> Frozen:
    """``value`` as it is now; later changes of it, in place or not, do not show."""
    what = type(value).__name__
    if is_lazy(value):
        return Leaf(f"{what} without a shape")
    if isinstance(value, Tensor):
        return frozen_tensor(value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.Size):
        return Leaf(value)
    if isinstance(value, _OPAQUE):
        return Leaf(str(value) if isinstance(value, torch.dtype | torch.device) else what)
    if isinstance(value, types.MethodType | types.FunctionType | types.BuiltinFunctionType | type):
        return Leaf(f"{value.__module__}.{value.__qualname__}")
    if id(value) in above:
        return Leaf("what holds it")
    above = (*above, id(value))
    if isinstance(value, GENERATORS):
        return Moving(_generator_state(value))
    if isinstance(value, np.ndarray):
        return Leaf((value.shape, str(value.dtype), value.tobytes()))
    if isinstance(value, functools.partial):
        return Tree(what, {"func": freeze(value.func, above), "args": freeze((value.args, value.keywords), above)})
    items: dict[str, Any] = {}
    if isinstance(value, Mapping):
        items = {repr(name): each for name, each in value.items()}
    elif isinstance(value, Set):
        items = {repr(each): None for each in sorted(value, key=repr)}
    elif isinstance(value, list | tuple | deque):
        items = {str(place): each for place, each in enumerate(value)}
    elif isinstance(value, itertools.count | itertools.cycle):
        items = {str(place): each for place, each in enumerate(_coming(value))}
    elif dataclasses.is_dataclass(value):
        items = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, nn.Module):
        return Tree(what, {name: freeze(each, above) for name, each in _attributes(value, ()).items()})
    items |= {f".{name}": each for name, each in getattr(value, "__dict__", {}).items() if name not in items}
    return Tree(what, {name: freeze(each, above) for name, each in items.items()})


def frozen_tensor(value: Tensor) -> Values:
    with torch.no_grad():
        kept = value.detach().clone(memory_format=torch.preserve_format)
    gradient = "with" if value.requires_grad else "without"
    return Values(kept, f"{type(value).__name__} {value.dtype} {gradient} gradient", value.grad_fn is not None)


def _generator_state(generator: Any) -> int | str:
    if isinstance(generator, torch.Generator):
        return _digest(generator.get_state())
    if isinstance(generator, random.Random):
        return hash(generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return hash(_numpy_state(generator.get_state()))
    return repr(generator.bit_generator.state)


def _numpy_state(state: Any) -> tuple[Any, ...]:
    name, words, *rest = state
    return name, words.tobytes(), *rest


def _digest(state: Tensor) -> str:
    return hashlib.sha256(state.numpy().tobytes()).hexdigest()[:12]


def _coming(iterator: Any) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return list(itertools.islice(copy.deepcopy(iterator), 8))


# A model and the world ------------------------------------------------------------------------------------------------


def parameters(model: nn.Module) -> dict[str, Frozen]:
    """Every parameter, its gradient beside it."""
    found = {name: freeze(value) for name, value in model.named_parameters(remove_duplicate=False)}
    return found | gradients(model)


def gradients(model: nn.Module) -> dict[str, Frozen]:
    return {f"the gradient of {name}": freeze(value.grad) for name, value in model.named_parameters()}


def buffers(model: nn.Module) -> dict[str, Frozen]:
    return {name: freeze(value) for name, value in model.named_buffers(remove_duplicate=False)}


def attributes(model: nn.Module) -> dict[str, Frozen]:
    """All that the modules hold beside parameters, buffers and each other: flags, containers, hooks in their order."""
    found = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        found |= {prefix + name: freeze(value) for name, value in _attributes(module, REGISTRIES).items()}
        found[f"{prefix}children"] = freeze([name for name, _ in module.named_children()])
    return found


def _attributes(module: nn.Module, without: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_") and "_hooks" in name and isinstance(value, dict):
            value = list(value.values())  # which are numbered anew for each model
            if not value:
                continue
        if name not in without and name not in _MARKS:
            found[name] = value
    return found


def world() -> dict[str, Frozen]:
    """The generators that everybody draws from, and the switches of torch."""
    state = {
        "torch's generator": _digest(torch.get_rng_state()),
        "Python's generator": hash(random.getstate()),
        "numpy's generator": hash(_numpy_state(np.random.get_state())),
        "grad mode": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": str(torch.get_default_dtype()),
    }
    return {name: Leaf(value) for name, value in state.items()}


def everything(model: nn.Module) -> dict[str, Frozen]:
    return parameters(model) | buffers(model) | attributes(model) | world()


# Differences ----------------------------------------------------------------------------------------------------------


def difference(ours: Any, right: Any, tolerance: float = 0.0, at: str = "") -> str | None:
    """Where and how ``ours`` is not ``right``, in one line; ``None`` where it is.

    Values may differ by ``tolerance`` times the largest one, or times 1e-4 where that is more; 0 is bit for bit.
    """
    if isinstance(right, dict) and isinstance(ours, dict):
        ours, right = Tree("", ours), Tree("", right)
    if type(ours) is not type(right):
        return f"{at}: {_told(ours)} for {_told(right)}"
    if isinstance(right, Values):
        return _values_differ(ours, right, tolerance, at)
    if isinstance(right, Leaf):
        both = ours.value, right.value
        close = tolerance and all(isinstance(each, float) for each in both) and math.isclose(*both, rel_tol=tolerance)
        return None if close or _same(*both) else f"{at}: {_told(ours)} for {_told(right)}"
    for name in (*ours.items, *right.items):
        if name not in right.items:
            return f"{_join(at, name)}: {_told(ours.items[name])}, where nothing is right"
        if name not in ours.items:
            return f"{_join(at, name)}: nothing for {_told(right.items[name])}"
    if ours.what != right.what or list(ours.items) != list(right.items):
        return f"{at}: {_told(ours)} for {_told(right)}"
    found = (difference(ours.items[name], each, tolerance, _join(at, name)) for name, each in right.items.items())
    return next(filter(None, found), None)


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _values_differ(ours: Values, right: Values, tolerance: float, at: str) -> str | None:
    if ours.what != right.what or ours.values.shape != right.values.shape:
        return f"{at}: {_told(ours)} for {_told(right)}"
    if tolerance and right.values.is_floating_point():
        scale = float(right.values.nan_to_num(0, 0, 0).abs().max()) if right.values.numel() else 0.0
        close = torch.allclose(ours.values, right.values, rtol=0, atol=tolerance * max(scale, 1e-4), equal_nan=True)
    else:
        close = bool(
            ((ours.values == right.values) | ((ours.values != ours.values) & (right.values != right.values))).all()
        )
    if close:
        return None
    off = (ours.values.double() - right.values.double()).abs().max()
    return f"{at}: off by {float(off):.2g} of {float(right.values.double().abs().max()):.2g}"


def _same(ours: Any, right: Any) -> bool:
    with contextlib.suppress(Exception):
        return bool(ours == right) or (ours != ours and right != right)
    return False


def _told(frozen: Any) -> str:
    if isinstance(frozen, Values):
        return f"{frozen.what} of {tuple(frozen.values.shape)}"
    if isinstance(frozen, Tree):
        names = list(frozen.items)
        return (
            f"{frozen.what} of {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
            if names
            else f"{frozen.what} of nothing"
        )
    return f"{frozen.value!r:.60}"


def holds_graph(frozen: Frozen) -> bool:
    """Whether a tensor in it belongs to the graph of some backward."""
    return any(isinstance(value, Values) and value.in_graph for value in _values(frozen))


def holds_generator(frozen: Frozen) -> bool:
    """Whether something in it is drawn from."""
    return any(isinstance(value, Moving) for value in _values(frozen))


def _values(frozen: Frozen) -> Iterator[Frozen]:
    if isinstance(frozen, Tree):
        for value in frozen.items.values():
            yield from _values(value)
    else:
        yield frozen
