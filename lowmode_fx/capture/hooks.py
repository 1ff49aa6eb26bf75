"""Disables a user's hooks while a model is traced: they would keep proxies instead of tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def forward_hooks_aside(model: nn.Module) -> Iterator[None]:
    """Inside, no forward hook runs except torch's own; forward pre-hooks run, since they may compute weights."""
    kept = [(module._forward_hooks, dict(module._forward_hooks)) for module in model.modules() if module._forward_hooks]
    for registry, hooks in kept:
        for key, hook in hooks.items():
            if not str(getattr(hook, "__module__", "")).startswith("torch."):
                del registry[key]
    try:
        yield
    finally:
        for registry, hooks in kept:
            registry.clear()
            registry.update(hooks)
