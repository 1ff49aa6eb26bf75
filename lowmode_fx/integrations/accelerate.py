"""Accelerate: ``prepare`` that also attaches the optimizer."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from lowmode_fx.integrations.extras import need
from lowmode_fx.integrations.nets import nets_in

need("accelerate", "accelerate")


def prepare(accelerator: Any, *objects: Any) -> Any:
    """Call ``accelerator.prepare(*objects)``, and attach each optimizer among the objects to each net.

    ``accelerator.save_state`` saves the schedule with the optimizer's state, and ``load_state`` resumes from it.
    Calling ``accelerator.prepare`` and ``net.attach(optimizer)`` has the same effect.

    Args:
        accelerator: The ``accelerate.Accelerator``.
        *objects: Nets, optimizers, loaders and schedulers in any order.

    Returns:
        What ``accelerator.prepare`` returns, one object for one, otherwise a tuple.

    Raises:
        ValueError: There is no net or no optimizer among the objects.
    """
    from torch import nn

    nets = [net for each in objects if isinstance(each, nn.Module) for net in nets_in(each)]
    optimizers = [each for each in objects if isinstance(each, Optimizer)]
    for found, kind in ((nets, "net"), (optimizers, "optimizer")):
        if not found:
            given = ", ".join(type(each).__name__ for each in objects) or "nothing"
            raise ValueError(f"prepare got no {kind}: {given}; give net and optimizer in one call")
    prepared = accelerator.prepare(*objects)
    together = (prepared,) if len(objects) == 1 else prepared
    for before, after in zip(objects, together, strict=True):
        if isinstance(before, Optimizer):
            for net in nets:
                net.attach(after)
    return prepared
