"""What ``lowmode-fx train`` does where no option says which modes a run has, or when: it goes up a ladder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: Options that choose modes or their schedule, and those of ``LowModeConfig`` that choose images.
_CHOICES = (
    *("preset", "tuned", "ladder", "shares", "schedule"),
    *("p", "tail", "period", "measure_every", "hold_epochs"),
)
_IMAGES = ("ratio", "whole_images")
#: Options of ``LowModeConfig`` that choose kernels.
_KERNELS = ("kernel_ratio", "kernel_transform", "gain", "rounding", "pool_convs", "keep_convs")
LADDER = "2,4/3,1"


class Modes(NamedTuple):
    """``--ladder``, the options of ``LowModeConfig``, and a note if they are not as given."""

    ladder: str | None
    low: Mapping[str, Any]
    note: str = ""


def choose_modes(options: Mapping[str, Any]) -> bool:
    """Whether some of these options, None or missing where one isn't given, say which modes a run has, or when."""
    return bool(options.get("full_only")) or any(options.get(name) is not None for name in (*_CHOICES, *_IMAGES))


def modes_of(given: Mapping[str, Any], low: Mapping[str, Any]) -> Modes:
    """The modes that are asked for, or those by default: r = 2, 4/3 and 1, kernels kept unless options are of kernels.

    given, low: the options of ``train`` and of ``LowModeConfig``, None where one isn't given.
    """
    if choose_modes({**given, **low}):
        return Modes(given["ladder"], low)
    if any(low.get(name) is not None for name in _KERNELS):
        return Modes(LADDER, low, f"note: no schedule is given, so the run goes up a ladder: --ladder {LADDER}")
    what = (
        f"note: no low-mode is given, so the run goes up a ladder with kernels kept: --ladder {LADDER} --kernel-ratio 1"
    )
    return Modes(LADDER, {**low, "kernel_ratio": "1"}, what)
