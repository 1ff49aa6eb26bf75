"""Compile both graphs before the clock starts, without a trace in the model, the generators or the schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.schedules import StatefulSchedule
from lowmode_fx.train.checkpoint import rng_state, set_rng_state
from lowmode_fx.utils.devices import synchronize


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Whatever happens inside, parameters, buffers, gradients, train/eval flags and all global generators come back.

    Values are copied back in place: compiled graphs and optimizers hold on to the tensors themselves.
    """
    tensors = [*module.parameters(), *module.buffers()]
    copies = [tensor.detach().clone() for tensor in tensors]
    gradients = [parameter.grad for parameter in module.parameters()]
    places = [(child, name, buffer) for child in module.modules() for name, buffer in child._buffers.items()]
    flags = [(child, child.training) for child in module.modules()]
    generators = rng_state()
    for parameter in module.parameters():
        parameter.grad = None  # so that a backward pass inside makes new tensors
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
        for child, name, buffer in places:
            child._buffers[name] = buffer  # a module may have put a new tensor in a buffer's place
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.grad = gradient
        for child, training in flags:
            child.training = training
        set_rng_state(generators)


def modes_to_come(net: LowModeModel, epochs: int, steps_per_epoch: int) -> list[Mode]:
    """The modes that the rest of a run uses: a graph that never runs needn't be compiled."""
    if isinstance(net.schedule, StatefulSchedule):
        return list(net.modes)  # what it will decide is not known yet
    found: set[Mode] = set()
    for step in range(net.step, epochs * steps_per_epoch):
        found.add(net.mode_at(step, step // steps_per_epoch))
        if len(found) == len(net.modes):
            break
    return [mode for mode in net.modes if mode in found]


def warm_up(module: nn.Module, device: torch.device, passes: Sequence[Callable[[], object]]) -> float:
    """Run forward-and-backward `passes` in train mode, trace by trace undone; returns the seconds that they took."""
    synchronize(device)
    start = time.perf_counter()
    with unchanged(module):
        module.train()
        for forward_and_backward in passes:
            forward_and_backward()
    synchronize(device)
    return time.perf_counter() - start
