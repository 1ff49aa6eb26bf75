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
from lowmode_fx.utils.devices import synchronize
from passes.preserve import preserve_modes, preserve_state


@contextmanager
def preserve_training(module: nn.Module) -> Iterator[None]:
    """Take steps inside; afterwards the model, its gradients and all random number generators are as they were.

    Of a ``LowModeModel`` what it has learned about itself stays: which shapes it compiled for, what it warned of.
    """
    model = module.ladder.model if isinstance(module, LowModeModel) else module
    with preserve_modes(module), preserve_state(model, parameters=True, gradients=True):
        yield


def modes_to_come(net: LowModeModel, epochs: int, steps_per_epoch: int, epoch: int = 0) -> list[Mode]:
    """The modes that the rest of a run uses, from ``epoch`` on: a graph that never runs needn't be compiled."""
    if isinstance(net.schedule, StatefulSchedule):
        return list(net.modes)  # what it will decide is not known yet
    coming = ((step, step // steps_per_epoch) for step in range(net.step, epochs * steps_per_epoch))
    if net.batches_grow:  # an epoch has fewer steps, so any of these may be in it
        window = range(net.step, net.step + steps_per_epoch)
        coming = ((step, each) for each in range(epoch, epochs) for step in window)
    found: set[Mode] = set()
    for step, each in coming:
        found.add(net.mode_at(step, each))
        if len(found) == len(net.modes):
            break
    return [mode for mode in net.modes if mode in found]


def warm_up(module: nn.Module, device: torch.device, passes: Sequence[Callable[[], object]]) -> float:
    """Run forward-and-backward ``passes`` in train mode and undo what they change; return their seconds."""
    synchronize(device)
    start = time.perf_counter()
    with preserve_training(module):
        module.train()
        for forward_and_backward in passes:
            forward_and_backward()
    synchronize(device)
    return time.perf_counter() - start
