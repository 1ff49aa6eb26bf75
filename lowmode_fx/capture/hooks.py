"""Hooks of a user's own stand aside while a model is traced: they would keep what stands for tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def forward_hooks_aside(model: nn.Module) -> Iterator[None]:
    """Inside, no forward hook is called but torch's own; hooks before a forward, which may make its weights, are."""
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
