"""The optimizer of a run: torch's SGD, or any other that timm makes by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lowmode_fx.runtime.captured.rates import option_for_capture
from lowmode_fx.train.optimizer_names import OTHER_LOOPS, unknown_optimizer
from lowmode_fx.train.settings import TrainSettings
from passes.errors import OptionError
from passes.wording import first_line


def make_optimizer(model: nn.Module, settings: TrainSettings, device: torch.device) -> torch.optim.Optimizer:
    """SGD over all parameters alike; or timm's ``create_optimizer_v2``, which leaves norms and biases undecayed.

    On CUDA one of torch's own is made with the option by which a captured step can hold its step too.

    Raises ``OptionError`` for a name that timm does not know, and for one whose package is missing, ``ValueError`` for
    a model without a parameter that trains.
    """
    check_trainable(model)
    decay, momentum = settings.weight_decay, settings.momentum
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=momentum,
            weight_decay=decay,
            nesterov=settings.nesterov,
            fused=device.type == "cuda" or None,
        )
    check_optimizer(settings.optimizer)
    from timm.optim import create_optimizer_v2

    try:
        made = create_optimizer_v2(model, settings.optimizer, settings.lr, decay, momentum)
        # Steps on shards aren't captured, and not all of these options know shards.
        option = option_for_capture(type(made)) if device.type == "cuda" and not settings.fsdp else None
        options: dict[str, Any] = {} if option is None else {option: True}
        return (
            create_optimizer_v2(model, settings.optimizer, settings.lr, decay, momentum, **options) if options else made
        )
    except (ImportError, AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise OptionError(
            "optimizer", settings.optimizer, f"can't be made ({first_line(error)})", "give another"
        ) from error


def check_trainable(model: nn.Module) -> None:
    """Raises ``ValueError`` for a model that no step would change."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        name, frozen = type(model).__name__, next(model.parameters(), None) is not None
        problem = "has frozen parameters alone; unfreeze some by requires_grad_()" if frozen else "has no parameters"
        raise ValueError(f"{name} {problem}{', or' if frozen else ';'} give another model")


def check_optimizer(name: str) -> None:
    """Raises ``OptionError`` for a name that is neither ``"sgd"`` nor one of timm's, with near matches."""
    if name == "sgd":
        return
    from timm.optim import list_optimizers

    known = [str(each) for each in list_optimizers()]
    if name not in known or name in OTHER_LOOPS:
        raise unknown_optimizer(name, known)
