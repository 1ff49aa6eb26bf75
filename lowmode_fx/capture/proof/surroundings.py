"""State outside of a model that its forward may change: generators, torch's settings, global names of its files."""

from __future__ import annotations

import copy
import functools
import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from passes.preserve import own_classes
from passes.preserve.generators import generator_state, gpus

_VALUES = (int, float, complex, str, tuple, type(None))
_CONTAINERS = (list, dict, OrderedDict, defaultdict, Counter, set, deque)
_Cache = type(functools.cache(len))


@dataclass(frozen=True)
class Snapshot:
    """``settings``: by their names in messages. ``names``: by owner and name, value and state."""

    settings: dict[str, Any]
    names: dict[tuple[int, str], tuple[Any, Any]]


class Surroundings:
    """The surroundings of one model: ``take`` a snapshot, ``put`` it back; containers are followed one level deep."""

    def __init__(self, model: nn.Module) -> None:
        self._settings: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
            "Python's generator": (random.getstate, random.setstate),
            "numpy's generator": (lambda: np.random.get_state(legacy=False), np.random.set_state),
            "torch's generator": _of_bytes(torch.get_rng_state, torch.set_rng_state),
            "torch's grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
            "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        }
        for gpu in gpus():
            self._settings[f"the generator of GPU {gpu}"] = _of_bytes(*_generator_of(gpu))
        self._owners = list(_owners(model))

    def take(self) -> Snapshot:
        names = {}
        for place, owner in enumerate(self._owners):
            for name, value in list(vars(owner).items()):
                if not name.startswith("__") and _is_followed(value):
                    names[place, name] = (value, _state(value))
        return Snapshot({what: get() for what, (get, _) in self._settings.items()}, names)

    def put(self, snapshot: Snapshot) -> None:
        for what, (_, put) in self._settings.items():
            put(snapshot.settings[what])
        for place, name in self.take().names.keys() - snapshot.names.keys():
            delattr(self._owners[place], name)
        for (place, name), (value, state) in snapshot.names.items():
            if vars(self._owners[place]).get(name) is not value:
                setattr(self._owners[place], name, value)
            _put_state(value, state)

    def names(self, snapshot: Snapshot) -> SimpleNamespace:
        """The values of global names and class attributes, by readable names."""
        owners = [owner.__name__ for owner in self._owners]
        states = {
            f"{owners[place]}.{name}": state
            for (place, name), (value, state) in snapshot.names.items()
            if not isinstance(value, _Cache)
        }
        return SimpleNamespace(**states)


def _owners(model: nn.Module) -> Iterator[Any]:
    own = dict.fromkeys(kind for module in model.modules() for kind in own_classes(type(module)))
    yield from own
    for name in dict.fromkeys(kind.__module__ for kind in own):
        if name in sys.modules:
            yield sys.modules[name]


def _is_followed(value: Any) -> bool:
    return isinstance(value, (*_VALUES, _Cache)) or type(value) in _CONTAINERS or _is_generator(value)


def _is_generator(value: Any) -> bool:
    kinds = (random.Random, torch.Generator, np.random.Generator, np.random.RandomState)
    return isinstance(value, kinds)


def _state(value: Any) -> Any:
    if _is_generator(value):
        return generator_state(value)
    if isinstance(value, _Cache):
        return value.cache_info().misses
    return copy.copy(value) if type(value) in _CONTAINERS else value


def _put_state(value: Any, state: Any) -> None:
    if isinstance(value, list):
        value[:] = state
    elif isinstance(value, dict | set):
        value.clear()
        value.update(state)
    elif isinstance(value, deque):
        value.clear()
        value.extend(state)
    elif isinstance(value, random.Random):
        value.setstate(state)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif isinstance(value, np.random.RandomState):
        value.set_state(state)
    elif isinstance(value, _Cache):
        if value.cache_info().misses != state:  # it may hold fake tensors now
            value.cache_clear()
    elif isinstance(value, torch.Generator):
        value.set_state(_tensor(state))


def _of_bytes(
    get: Callable[[], Tensor], put: Callable[[Tensor], Any]
) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    return (lambda: get().numpy().tobytes()), (lambda state: put(_tensor(state)))


def _tensor(state: bytes) -> Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def _generator_of(gpu: int) -> tuple[Callable[[], Tensor], Callable[[Tensor], None]]:
    return (lambda: torch.cuda.get_rng_state(gpu)), (lambda state: torch.cuda.set_rng_state(state, gpu))
