"""Train mode for as long as a graph is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def train_mode(model: nn.Module) -> Iterator[None]:
    """Train mode inside; a model that is already in it keeps the modules that its owner froze."""
    modes = {module: module.training for module in model.modules()}
    if not model.training:
        model.train()
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training is not training:
                module.training = training
