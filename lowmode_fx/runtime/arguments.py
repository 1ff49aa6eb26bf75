"""What a ``LowModeModel`` is made of, held against each other: a ladder, a schedule for it, weights of its modes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules import StatefulSchedule


def check_arguments(ladder: Any, schedule: Any, downsample_on: Any) -> None:
    """Raises ``TypeError`` or ``ValueError`` for what is no ladder, no schedule for it, or no place to downsample."""
    if not isinstance(ladder, Ladder):
        kind = type(ladder).__name__
        raise TypeError(f"pair is a {kind}; it must be a ModePair, as build_pair(model, example_input) makes it")
    if not callable(getattr(schedule, "mode", None)):
        kind = type(schedule).__name__
        raise TypeError(f"schedule is a {kind}; it must have a method mode(step, epoch), as BernoulliSchedule(0.5)")
    count = getattr(schedule, "count", None)
    if isinstance(count, int) and count != len(ladder.modes):
        raise ValueError(
            f"{type(schedule).__name__} is for {count} modes, and the ladder has {len(ladder.modes)}: "
            f"{', '.join(map(str, ladder.modes))}; give one share, number of epochs or probability for each"
        )
    if downsample_on not in ("device", "host"):
        raise ValueError(f"downsample_on is {downsample_on!r}; allowed: 'device', 'host'")
    if downsample_on == "host" and not any(rung.config.downsample_input for rung in ladder.rungs):
        raise ValueError(
            "downsample_on='host' has nothing to do: the pair's images stay whole (downsample_input=False)"
        )
    if downsample_on == "host" and isinstance(schedule, StatefulSchedule):
        raise ValueError(
            "a loader draws the modes of batches ahead of what the schedule decides, and hands on no full-size "
            f"batches to measure; with {type(schedule).__name__} use downsample_on='device'"
        )


def read_low_weights(ladder: Ladder, low_weight: float | Mapping[str, float]) -> dict[Mode, float]:
    """The weight of each low mode's gradients.

    Raises ``ValueError`` for a mode that the ladder doesn't have, and for what is no number above 0.
    """
    given = low_weight if isinstance(low_weight, Mapping) else {str(mode): low_weight for mode in ladder.modes[:-1]}
    weights = {ladder.rung(Mode(name)).mode: weight for name, weight in given.items()}
    for weight in weights.values():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"low_weight is {weight!r}; it must be a number above 0")
    return weights
