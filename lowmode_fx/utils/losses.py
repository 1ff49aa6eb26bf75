"""Checks of a criterion, and of the loss that it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from lowmode_fx.utils.validation import wrong_type
from passes.errors import NO_VALUE, OptionTypeError

Called = TypeVar("Called", bound=Callable[..., Any])


def as_criterion(criterion: Called) -> Called:
    """A callable of outputs and targets. Raises ``TypeError`` for anything else, also for a loss's class."""
    if isinstance(criterion, type):
        name = criterion.__name__
        raise OptionTypeError("criterion", NO_VALUE, f"is the class {name}", f"give an object of it, such as {name}()")
    if not callable(criterion):
        raise wrong_type("criterion", criterion, "a function of outputs and targets")
    return criterion


def as_loss(loss: Any, source: str = "criterion") -> Tensor:
    """A tensor of one value that gradients flow from.

    source: what returned it, for the message. Raises ``TypeError`` or ``ValueError`` for anything else.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"{source} returned a value of type {type(loss).__name__}; return a scalar tensor")
    if loss.numel() != 1:
        raise ValueError(f"{source} returned a tensor of shape {tuple(loss.shape)}; return a scalar, such as its mean")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ValueError(f"{source} returned a loss without a gradient; compute it from the outputs, not detached")
    return loss
