"""Undo what a forward does to the attributes of modules, after each forward: cheap enough for every step.

Counters, queues, logs and flags are restored. What a forward leaves for the loss of its own step, a tensor that
gradients flow through or something that holds one, stays for the training loop to read until ``settle``.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import CellType
from typing import Any

import torch
from torch import Tensor, nn

from passes.preserve.containers import array_restorer, cell_contents, container_restorer, replace_item, same_items
from passes.preserve.holdings import Holdings, copy_iterator, find_held
from passes.preserve.plain_tensors import TensorCopies, is_plain
from passes.preserve.restorers import Restorer, restore_all

_ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, Tensor, nn.Module)
#: Attributes of every module: registries, hooks and the mode, which are handled elsewhere.
_EVERY_MODULES = frozenset(vars(nn.Module()))
#: Torch's own layers, whose forwards change no attribute.
_LAYERS = "torch.nn.modules."
_MISSING = object()


class ForwardAttributes:
    """The attributes of a model's modules, preserved over its forwards."""

    def __init__(self) -> None:
        self._left: list[Restorer] = []
        self._copies = TensorCopies()

    @contextlib.contextmanager
    def kept(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Inside, a forward runs; ``modules`` are all modules of the model."""
        self.settle()
        modes = [module.training for module in modules]
        own = [vars(module) for module in modules if not type(module).__module__.startswith(_LAYERS)]
        before = [dict(attributes) for attributes in own]
        contents: list[tuple[Any, Restorer]] = []
        places: list[tuple[Any, Any, Tensor]] = []
        for attributes in own:
            contents += _contents(attributes, places)
        if places:
            registered = {id(held) for module in modules for held in _registered(module)}
            self._copies.put(place for place in places if id(place[2]) not in registered)
        try:
            yield
        finally:
            restorers: list[Restorer] = []
            for now, attributes in zip(own, before, strict=True):
                if not (same_items(now, attributes) and same_items(now.values(), attributes.values())):
                    self._sort_out(now, attributes, restorers)
            for holder, restorer in contents:
                (self._left if _carries_gradient(holder) else restorers).append(restorer)
            restore_all(restorers)
            for module, training in zip(modules, modes, strict=True):
                if module.training is not training:
                    module.training = training

    def settle(self) -> None:
        """Restore what was left for the training loop to read."""
        left, self._left = self._left, []
        restore_all(left)

    def _sort_out(self, now: dict[str, Any], before: dict[str, Any], restorers: list[Restorer]) -> None:
        """Which of the changed attributes to restore at once, and which to leave for a while."""
        for name in now.keys() | before.keys():
            found = now.get(name, _MISSING)
            if found is before.get(name, _MISSING):
                continue

            def restore(name: str = name) -> None:
                if name in before:
                    now[name] = before[name]
                else:
                    now.pop(name, None)

            (self._left if _carries_gradient(found) else restorers).append(restore)


def _contents(attributes: dict[str, Any], places: list[tuple[Any, Any, Tensor]]) -> list[tuple[Any, Restorer]]:
    """Each container and array that can be reached from a module's attributes, with its restorer.

    The places of plain tensors, by container and key, are added to ``places``. Iterators are replaced by copies
    meanwhile.
    """
    places += ((attributes, name, value) for name, value in attributes.items() if is_plain(value))
    told = {
        name: value
        for name, value in attributes.items()
        if name not in _EVERY_MODULES and not isinstance(value, _ATOMS)
    }
    if not told:
        return []
    found: Holdings = find_held(told)
    contents = [(each, container_restorer(each)) for each in (*found.containers, *found.empty) if each is not told]
    contents += [(array, array_restorer(array)) for array in found.arrays]
    if found.tensors:
        places += (place for each in found.containers if each is not told for place in _places(each))
    for holder, key, iterator in found.iterators:
        with contextlib.suppress(TypeError):  # one that can't be copied
            replace_item(attributes if holder is told else holder, key, copy_iterator(iterator))
    return contents


def _places(container: Any) -> Iterator[tuple[Any, Any, Tensor]]:
    """Where a container with keys that can be assigned holds plain tensors."""
    if isinstance(container, dict):
        items: Iterable[tuple[Any, Any]] = container.items()
    elif isinstance(container, CellType):
        items = enumerate(cell_contents(container))
    else:
        items = enumerate(container) if isinstance(container, list | deque) else ()
    yield from ((container, key, value) for key, value in items if is_plain(value))


def _registered(module: nn.Module) -> Iterator[Tensor | None]:
    yield from module._parameters.values()
    yield from module._buffers.values()


def _carries_gradient(value: Any) -> bool:
    """Whether a value is or holds a tensor with a ``grad_fn``."""
    if isinstance(value, Tensor):
        return value.grad_fn is not None
    if isinstance(value, dict):
        return any(map(_carries_gradient, value.values()))
    return isinstance(value, list | tuple | set) and any(map(_carries_gradient, value))
