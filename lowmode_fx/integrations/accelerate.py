"""Accelerate: ``prepare`` with the optimizer attached."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from lowmode_fx.integrations.extras import need
from lowmode_fx.integrations.nets import nets_in

need("accelerate", "accelerate")


def prepare(accelerator: Any, *objects: Any) -> Any:
    """``accelerator.prepare(*objects)``, and each net among them is attached to each optimizer among them.

    objects: nets, optimizers, loaders and schedulers in any order. Returns what ``accelerator.prepare`` does: one
        object for one, else a tuple. ``accelerator.save_state`` saves the schedule with the optimizer's state, and
        ``load_state`` goes on from there. ``accelerator.prepare`` and ``net.attach(optimizer)`` do the same.

    Raises ``ValueError`` where there is no net or no optimizer among them.
    """
    from torch import nn

    nets = [net for each in objects if isinstance(each, nn.Module) for net in nets_in(each)]
    optimizers = [each for each in objects if isinstance(each, Optimizer)]
    for found, kind in ((nets, "net"), (optimizers, "optimizer")):
        if not found:
            given = ", ".join(type(each).__name__ for each in objects) or "nothing"
            raise ValueError(
                f"there is no {kind} among what is to be prepared ({given}); give net and optimizer at once"
            )
    prepared = accelerator.prepare(*objects)
    together = (prepared,) if len(objects) == 1 else prepared
    for before, after in zip(objects, together, strict=True):
        if isinstance(before, Optimizer):
            for net in nets:
                net.attach(after)
    return prepared
