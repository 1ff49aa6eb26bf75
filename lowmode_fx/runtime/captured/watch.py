"""Watches what a recorded step has read in Python: as long as it is unchanged, a replay does what the code would do."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping
from itertools import chain
from types import CellType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lowmode_fx.runtime.captured.host_state import HostState, moved_what
from lowmode_fx.runtime.captured.named_reads import PLAIN, NamedReads
from lowmode_fx.runtime.captured.names import Names
from lowmode_fx.runtime.captured.tensor_watch import TensorWatch, tensor_hooks
from lowmode_fx.runtime.captured.torch_settings import SETTINGS
from lowmode_fx.runtime.captured.writes import Writes
from passes.preserve.containers import cell_contents
from passes.preserve.holdings import Holdings, find_held

_MISSING = object()
#: Times that what code reads by name is looked into for more code.
_MOST_ROUNDS = 5
#: Registries of modules that are filled by registering a hook only. Calls of modules read the first three for hooks in
#: other registries, and the rest are for state dicts.
_REGISTERED = (
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


class Watch:
    """The attributes, containers, closures and globals that some code reads, and the tensors and arrays in them.

    Objects are compared by identity, plain values by value. State elsewhere (in a file, behind a call) is not seen.
    """

    def __init__(self, roots: Mapping[str, Any]) -> None:
        """``roots``: modules and functions, by their names in messages."""
        held, named = _find_read({**roots, "hooks on all modules": _global_hooks()})
        self._named = named.places
        #: The values, in words, of what ``changed`` has told last: before, and now.
        self.values = ""
        self._names = Names(roots, named.functions)
        containers = [each for each in held.containers if not isinstance(each, CellType | bytearray)]
        registered = {id(vars(module).get(name)) for module in held.modules for name in _REGISTERED}
        empty = [*(each for each in containers if not each), *held.empty]
        self._empty = [each for each in empty if id(each) not in registered]
        self._registries = [each for each in empty if id(each) in registered]
        self._containers = [each for each in containers if each]
        self._sources = [each.values() if isinstance(each, dict) else each for each in self._containers]
        self._seen, self._keys = self._read()
        self._writes = Writes(self._containers)
        self._cells = [each for each in held.containers if isinstance(each, CellType)]
        self._loose = self._read_loose()
        self._handles = RemovableHandle.next_id
        self._tensors = TensorWatch(held.tensors)
        self.host = HostState(held)
        own = [each for each in held.generators if isinstance(each, torch.Generator)]
        #: Generators of the device that the code draws from, besides the default one.
        self.generators = [each for each in own if each.device.type != "cpu"]

    def changed(self) -> str | None:
        """The name of something that has changed, if anything has."""
        self.values = ""
        if any(self._empty):
            return "a container that was empty (of hooks, for example)"
        if self._handles != RemovableHandle.next_id:  # hooks were registered since, here or elsewhere
            if any(self._registries) or self._tensors.hooks_changed():
                return "the hooks on a module or tensor"
            self._handles = RemovableHandle.next_id
        if self._writes.any():
            if not self._is_seen():
                changed = self._find()
                if changed is not None:
                    return changed
                self._seen, self._keys = self._read()
            self._writes.forget()
        loose = self._read_loose()
        if not all(map(operator.is_, loose, self._loose)):
            for place, (now, before) in enumerate(zip(loose, self._loose, strict=True)):
                if not is_same(now, before):
                    self.values = _told(before, now)
                    return self._name_loose(place)
        array = self.host.changed_array()
        return self._tensors.changed() if array is None else f"the values of an array{self._names.after(array)}"

    def moved(self, now: tuple[Any, Any], before: tuple[Any, Any]) -> str | None:
        """What a step has moved on the host, and where, if anything: from ``host_draws`` and ``host.read()``."""
        told = moved_what(now, before)
        return None if told is None else self._names.moved(told, self.host, now, before)

    def _is_seen(self) -> bool:
        """Whether containers hold the same objects as before: an equal container is another one to watch."""
        try:
            now, keys = self._read()
        except RuntimeError:  # changed while it was read
            return False
        return keys == self._keys and len(now) == len(self._seen) and all(map(operator.is_, now, self._seen))

    def _read(self) -> tuple[list[Any], list[Any]]:
        """The values of all containers, and the keys or the length of each."""
        return list(chain.from_iterable(self._sources)), list(map(_keys, self._containers))

    def _find(self) -> str | None:
        for container, before in zip(self._containers, self._keys, strict=True):
            if _keys(container) != before:
                return "the keys or the size of a container"
        seen = iter(self._seen)
        for container in self._containers:
            items = container.items() if isinstance(container, dict) else enumerate(container)
            for key, value in items:
                before = next(seen, _MISSING)
                if not is_same(value, before):
                    self.values = _told(before, value)
                    return self._names.entry(container, key)
        return None

    def _read_loose(self) -> list[Any]:
        """What is in no container: global settings of torch, closures, globals."""
        found = [read() for read in SETTINGS]
        if self._cells:
            found += [(cell_contents(each) or [_MISSING])[0] for each in self._cells]
        if self._named:
            found += [names.get(name, _MISSING) for names, name in self._named]
        return found

    def _name_loose(self, place: int) -> str:
        names = ["a global setting of torch"] * len(SETTINGS) + ["a variable of a closure"] * len(self._cells)
        return [*names, *(name for _, name in self._named)][place]


def _find_read(holder: dict[str, Any]) -> tuple[Holdings, NamedReads]:
    """What the values of a dictionary hold and their code reads by name, with hooks on the tensors among it."""
    for _ in range(_MOST_ROUNDS):
        held = find_held(holder)
        named = NamedReads(held)
        found = {"read by name": named.objects, "hooks on tensors": tensor_hooks(held.tensors)}
        # What was found may hold more code, and this may read more.
        if all(len(each) == len(holder.get(name, ())) for name, each in found.items()):
            break
        holder = {**holder, **found}
    return held, named


def _told(before: Any, now: Any) -> str:
    """Two plain values."""
    return f"{before!r}, {now!r}"[:80] if isinstance(before, PLAIN) and isinstance(now, PLAIN) else ""


def _keys(container: Any) -> Any:
    """The keys of a dictionary in their order, or the length of another container."""
    return list(container) if isinstance(container, dict) else len(container)


def is_same(now: Any, before: Any) -> bool:
    """Whether a value is the same object, or an equal plain value; a tuple's entries are compared one by one."""
    if now is before:
        return True
    if type(now) is not type(before) or not isinstance(now, (*PLAIN, numbers.Number)):
        return False
    if isinstance(now, tuple) and not isinstance(now, torch.Size):
        return len(now) == len(before) and all(map(is_same, now, before))
    if isinstance(now, float) and now == 0 == before:
        return math.copysign(1, now) == math.copysign(1, before)
    return bool(now == before)


def _global_hooks() -> list[Any]:
    return [value for name, value in vars(nn.modules.module).items() if name.startswith("_global_") and "hook" in name]
