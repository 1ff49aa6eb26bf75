"""A hint for a model whose weights have another dtype than the images that a command, or a run, makes."""

from __future__ import annotations

import torch
from torch import nn

from passes.spelling import in_command, is_option, setting


def weights_dtype(model: nn.Module) -> torch.dtype | None:
    """The dtype of the model's first floating parameter; ``None`` if it has none."""
    return next((value.dtype for value in model.parameters() if value.is_floating_point()), None)


def weights_hint(model: nn.Module) -> str:
    """What to do about weights that images of float32 don't fit; empty if they do."""
    dtype = weights_dtype(model)
    if dtype is None or dtype == torch.float32:
        return ""
    half = is_option("autocast") or not in_command()
    autocast = f", with {setting('autocast', 'bf16')} for half precision" if half else ""
    return f"its weights are of {dtype}; give a model with weights of {torch.float32}{autocast}"
