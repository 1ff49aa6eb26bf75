"""Optimizers and their wrappers: which one steps, on which weights, and whether it has stepped before."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def unwrapped(optimizer: Any) -> list[Any]:
    """``optimizer`` and every optimizer that it wraps, outermost first: all that have parameter groups.

    Accelerate's and DeepSpeed's wrappers, timm's ``Lookahead`` and sharpness-aware ones hold the inner optimizer as an
    attribute. Raises ``TypeError`` if none of them is an optimizer.
    """
    found = [each for each in _walk(optimizer, set()) if hasattr(each, "param_groups")]
    if not found or isinstance(optimizer, LRScheduler):
        kind = type(optimizer).__name__
        raise TypeError(f"optimizer is of type {kind}; give a torch.optim.Optimizer, or a wrapper of one")
    return found


def check_trains(optimizer: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Raise ``ValueError`` if ``optimizer``, with what it wraps, has none of the net's ``parameters``."""
    known = list(parameters)
    if not any(has_any_of(each, known) for each in unwrapped(optimizer)):
        raise ValueError("optimizer has none of the net's parameters; make it with net.parameters()")


def check_steps_alone(optimizer: Any, instead: str) -> None:
    """Raise ``ValueError`` for one whose ``step`` needs a closure, as LBFGS's; ``instead``: what to do with it."""
    try:
        closure = inspect.signature(optimizer.step).parameters.get("closure")
    except (AttributeError, TypeError, ValueError):  # it has none that can be known
        return
    if closure is not None and closure.default is closure.empty:
        kind = type(optimizer).__name__
        raise ValueError(f"optimizer is of type {kind}, whose step needs a closure; {instead}")


def has_any_of(optimizer: Any, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether one of ``optimizer``'s groups has one of the ``parameters``."""
    theirs = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return any(id(parameter) in theirs for parameter in parameters)


def _walk(optimizer: Any, seen: set[int]) -> Iterator[Any]:
    if id(optimizer) in seen:
        return
    seen.add(id(optimizer))
    yield optimizer
    for name, value in getattr(optimizer, "__dict__", {}).items():
        if isinstance(value, Optimizer) or name.removeprefix("_") in ("optimizer", "base_optimizer"):
            yield from _walk(value, seen)
