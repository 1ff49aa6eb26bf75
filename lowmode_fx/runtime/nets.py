"""A net as an argument."""

from __future__ import annotations

from typing import Any

from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.utils.validation import wrong_type


def as_net(net: Any) -> LowModeModel:
    """The argument ``net``. Raises ``TypeError`` for anything but a ``LowModeModel``."""
    if not isinstance(net, LowModeModel):
        raise wrong_type("net", net, "a LowModeModel")
    return net
