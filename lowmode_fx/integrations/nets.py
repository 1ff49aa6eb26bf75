"""Finds the nets inside a module that a trainer trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.optimizers import has_any_of, unwrapped


def nets_in(module: nn.Module) -> list[LowModeModel]:
    """Every net that is trained in ``module``, however it is wrapped (compiled, in DDP, in a task, in an average).

    Copies that no optimizer trains (averages, momentum encoders) are left out. Raises ``ValueError`` if there is none.
    """
    found = [net for net in _walk(module, set()) if not net.is_copy]
    if not found:
        raise ValueError(
            f"{type(module).__name__} holds no LowModeModel; wrap its network in one: "
            "LowModeModel(build_pair(network, images), schedule)"
        )
    return found


def attach_to(nets: Iterable[LowModeModel], optimizer: Any) -> None:
    """Attach ``optimizer`` to those of the nets whose parameters it, or one that it wraps, has: others are its own."""
    inner = unwrapped(optimizer)
    for net in nets:
        if any(has_any_of(each, net.parameters()) for each in inner):
            net.attach(optimizer)


def _walk(module: Any, seen: set[int]) -> Iterator[LowModeModel]:
    if id(module) in seen:
        return
    seen.add(id(module))
    if isinstance(module, LowModeModel):
        yield module
        return
    for child in module.children():
        yield from _walk(child, seen)
