"""A network in a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Case:
    """One network at one image side in pixels and one batch size."""

    build: Callable[[], nn.Module]
    side: int
    batch: int
