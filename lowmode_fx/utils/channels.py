"""A hint for images whose number of channels does not fit the model."""

from __future__ import annotations

import re

from torch import nn

from passes.spelling import is_option, setting

_TOLD = re.compile(r"expected input\[\d+, (\d+), .* to have (\d+) channels, but got \1 channels")


def channels_hint(model: nn.Module, complaint: str) -> str:
    """What torch's error about the input of the model's first convolution means; empty for any other error."""
    found = _TOLD.search(complaint)
    first = next((module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd)), None)
    if found is None or first is None or first.in_channels != int(found[2]):
        return ""
    given, taken = found[1], found[2]
    hint = f"build the model with {setting('in_chans', int(given))}"
    if is_option("in_chans"):  # it is the model's argument too, if the model has one
        hint = f"give {setting('in_chans', int(taken))}, or a model that takes {given}"
    return f"images have {given} channel{'s' * (given != '1')}, but the model takes {taken}; {hint}"
