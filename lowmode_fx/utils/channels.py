"""Images of another number of channels than a model takes, told in words that say what to do."""

from __future__ import annotations

import re

from torch import nn

from passes.spelling import setting

_TOLD = re.compile(r"expected input\[\d+, (\d+), .* to have (\d+) channels, but got \1 channels")


def channels_hint(model: nn.Module, complaint: str) -> str:
    """What torch's complaint about the input of the model's first convolution means; empty for any other complaint."""
    found = _TOLD.search(complaint)
    first = next((module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd)), None)
    if found is None or first is None or first.in_channels != int(found[2]):
        return ""
    given, taken = found[1], found[2]
    return f"the images have {given} channels, the model takes {taken}: build it with {setting('in_chans', int(given))}"
