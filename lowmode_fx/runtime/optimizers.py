"""Optimizers, and what wraps them: who steps, on whose weights, and whether it has stepped before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.optim import Optimizer


def unwrapped(optimizer: Any) -> list[Any]:
    """``optimizer`` and all that it wraps, the outermost first: whatever of it has parameter groups.

    Accelerate's and DeepSpeed's wrappers, timm's ``Lookahead`` and sharpness-aware ones hold another as an attribute.
    Raises ``TypeError`` where nothing of it is an optimizer.
    """
    found = [each for each in _walk(optimizer, set()) if hasattr(each, "param_groups")]
    if not found:
        kind = type(optimizer).__name__
        raise TypeError(f"optimizer is a {kind}; give a torch.optim.Optimizer, or what wraps one")
    return found


def _walk(optimizer: Any, seen: set[int]) -> Iterator[Any]:
    if id(optimizer) in seen:
        return
    seen.add(id(optimizer))
    yield optimizer
    for name, value in getattr(optimizer, "__dict__", {}).items():
        if isinstance(value, Optimizer) or name.removeprefix("_") in ("optimizer", "base_optimizer"):
            yield from _walk(value, seen)
