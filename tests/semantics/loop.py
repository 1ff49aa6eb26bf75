"""A training loop, step by step, and a record of all that each step did."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from semantics.habit import Habit, generators_at
from semantics.state import (
    Frozen,
    Values,
    attributes,
    buffers,
    difference,
    freeze,
    frozen_tensor,
    gradients,
    parameters,
    world,
)


@dataclass(frozen=True)
class Step:
    """What a step returned, and what it left."""

    outputs: Frozen
    loss: Values
    gradients: dict[str, Frozen]
    parameters: dict[str, Frozen]
    buffers: dict[str, Frozen]
    attributes: dict[str, Frozen]
    world: dict[str, Frozen]


def train(
    habit: Habit, model: nn.Module, subject: Any, step: int, optimizer: torch.optim.Optimizer, handle: nn.Module
) -> Step:
    """One step of a loop that calls ``subject``: the model itself, a net over it, or the truth of low-mode.

    ``handle`` is what a loop sets things on that sets them through the net.
    """
    subject.train()
    habit.each_step(handle if habit.through_net else model, step)
    _adopt(optimizer, model)
    optimizer.zero_grad()
    with habit.around():
        outputs = habit.run(subject, model, habit.given(step))
        loss = habit.loss(getattr(subject, "shadow", model), outputs)
    loss.backward()
    found = gradients(model)
    optimizer.step()
    return Step(
        outputs=freeze(outputs),
        loss=frozen_tensor(loss),
        gradients=found,
        parameters=parameters(model),
        buffers=buffers(model),
        attributes=attributes(model),
        world=world(),
    )


def evaluate(habit: Habit, subject: Any) -> Frozen:
    """What the habit's model returns in eval mode, for images of a later step."""
    subject.eval()
    given = habit.given(3)
    with torch.no_grad(), habit.around(), generators_at(5):
        return freeze(subject(*given.args, **given.kwargs))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def _adopt(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Parameters that a step has brought are trained from then on."""
    known = {id(value) for group in optimizer.param_groups for value in group["params"]}
    new = [value for value in model.parameters() if id(value) not in known]
    if new:
        optimizer.add_param_group({"params": new})


def steps_differ(ours: Step, right: Step, tolerance: float = 0.0, without: tuple[str, ...] = ()) -> str | None:
    """The first thing in which two steps differ, in one line."""
    names = (each.name for each in fields(Step) if each.name not in without)
    found = (difference(getattr(ours, name), getattr(right, name), tolerance, name) for name in names)
    return next(filter(None, found), None)
