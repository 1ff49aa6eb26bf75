"""Context managers that preserve a model's state. Each restores as much as it can, even if a part fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from passes.preserve.containers import array_restorer, container_restorer, empty_restorer, replace_item
from passes.preserve.generators import generator_restorers
from passes.preserve.holdings import Holdings, copy_iterator, find_holdings
from passes.preserve.restorers import Restorer, restoring
from passes.preserve.values import WriteJournal, handle_restorers, value_restorers


@contextlib.contextmanager
def preserve_state(
    model: nn.Module, *, parameters: bool = False, buffers: bool = True, gradients: bool = False
) -> Iterator[None]:
    """Restore attributes, modes, ``requires_grad`` and generators, and the values that are requested.

    parameters, buffers: the values of registered ones; values of other tensors that the model holds are always
    restored. They are copied in advance, and restored in place, since compiled graphs and optimizers hold the tensors
    themselves. Without either hardly anything is copied, which is enough if a forward runs on symbolic or fake values.

    gradients: there are none inside, and the old ones are restored.

    Attributes are everything that ``find_holdings`` finds: contents of containers, registries and hooks, numpy arrays,
    closure variables, and iterators, of which a copy is used inside. Iterators that can't be copied (a generator
    function's), and global variables of a program's modules are not restored.
    """
    found = find_holdings(model)
    let_be = {*map(id, () if parameters else model.parameters()), *map(id, () if buffers else model.buffers())}
    # Values first: a tensor that has other memory by then must not get them.
    restorers = value_restorers(value for value in found.tensors if id(value) not in let_be)
    restorers += handle_restorers(found.tensors)
    weights = [value for value in found.tensors if isinstance(value, nn.Parameter)]
    if gradients:
        restorers += [partial(setattr, parameter, "grad", parameter.grad) for parameter in weights]
    with _preserve_attributes(found), restoring(restorers):
        if gradients:
            for parameter in weights:
                parameter.grad = None  # so that a backward pass inside makes new tensors
        yield


@contextlib.contextmanager
def preserve_attributes(*modules: nn.Module) -> Iterator[None]:
    """The part of ``preserve_state`` for forwards without real tensors: attributes, modes and generators."""
    with _preserve_attributes(find_holdings(*modules)):
        yield


@contextlib.contextmanager
def preserve_generators(*modules: nn.Module) -> Iterator[None]:
    """Restore torch's generators (CPU and GPUs in use), Python's and numpy's, and those that ``modules`` hold."""
    with restoring(generator_restorers(find_holdings(*modules).generators)):
        yield


@contextlib.contextmanager
def preserve_modes(model: nn.Module) -> Iterator[None]:
    """Restore train and eval modes of all modules."""
    with restoring(partial(_set_mode, module, module.training) for module in model.modules()):
        yield


@contextlib.contextmanager
def train_mode(model: nn.Module) -> Iterator[None]:
    """Train mode inside; a model that is already in train mode keeps frozen modules in eval mode.

    What a model's own ``train()`` changes (adapters that remove themselves from weights) is undone at the end.
    """
    if model.training:
        with preserve_modes(model):
            yield
        return
    journal = WriteJournal()
    with preserve_state(model, buffers=False), restoring([journal.undo]):
        with journal:
            model.train()
        yield


@contextlib.contextmanager
def undo_writes() -> Iterator[None]:
    """In-place writes to any tensor inside are undone at the end; only tensors that are written to are copied.

    For code that mostly runs on symbolic values: each operator on a real tensor takes some microseconds longer.
    ``torch.jit.trace`` records nothing inside.
    """
    journal = WriteJournal()
    with restoring([journal.undo]), journal:
        yield


@contextlib.contextmanager
def _preserve_attributes(found: Holdings) -> Iterator[None]:
    restorers: list[Restorer] = [*generator_restorers(found.generators), empty_restorer(found.empty)]
    restorers += map(container_restorer, found.containers)
    restorers += map(array_restorer, found.arrays)
    restorers += map(_class_restorer, {kind for module in found.modules for kind in own_classes(type(module))})
    # A scripted module's mode is not an attribute, and its tensors can't be replaced.
    for module in found.modules:
        if isinstance(module, torch.jit.ScriptModule):
            restorers += [partial(_set_mode, module, module.training)]
            restorers += value_restorers([*module.parameters(), *module.buffers()])
    with restoring(restorers):
        copies: dict[int, Iterator[object]] = {}
        for holder, key, iterator in found.iterators:
            with contextlib.suppress(
                TypeError
            ):  # an iterator that can't be copied, or a holder that can't be assigned to
                if id(iterator) not in copies:
                    copies[id(iterator)] = copy_iterator(iterator)
                replace_item(holder, key, copies[id(iterator)])
        yield


def own_classes(kind: type) -> tuple[type, ...]:
    """The user-defined classes of a module's type: torch's own classes change no attribute."""
    return tuple(each for each in kind.__mro__ if each.__module__.partition(".")[0] not in ("torch", "builtins"))


def _class_restorer(kind: type) -> Restorer:
    """For the attributes of a class, such as a counter that all instances share."""
    before = dict(vars(kind))

    def restore() -> None:
        now = vars(kind)
        for name in [name for name in now if name not in before]:
            delattr(kind, name)
        for name, value in before.items():
            if now.get(name) is not value:
                setattr(kind, name, value)

    return restore


def _set_mode(module: nn.Module, training: bool) -> None:
    if module.training is not training:
        module.training = training
