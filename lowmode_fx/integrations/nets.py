"""Finds the nets inside a module that a trainer trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from lowmode_fx.runtime.model import LowModeModel


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


def _walk(module: Any, seen: set[int]) -> Iterator[LowModeModel]:
    if id(module) in seen:
        return
    seen.add(id(module))
    if isinstance(module, LowModeModel):
        yield module
        return
    for child in module.children():
        yield from _walk(child, seen)
