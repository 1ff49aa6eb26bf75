"""From what a low step gains and costs to a plan: how many low epochs, then how many full ones, and what is saved.

Let x in [0, 1] be how far training has come, in full steps of a whole run. A full step's way costs 1 in full-mode and
``cost / gain(x)`` in low-mode, by a low step's cost and gain in full steps. So low steps pay while gain(x) > cost. The
gain falls as training goes on: as a power of x, it is taken, through the places where it was measured. The run's last
part, ``tail``, is full whatever the gain: the network settles there on what it answers in full-mode. And there are
never more low epochs than the full run has: what they would gain is beyond anything that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Steps of the integral over x.
_GRID = 400


@dataclass(frozen=True)
class Plan:
    """Low epochs first, full ones after; ``time``: of the whole run, in that of ``epochs`` full ones.

    ``share``: how far low-mode carries the training, in [0, 1].
    """

    low_epochs: float
    full_epochs: float
    time: float
    share: float


def make_plan(gain: Callable[[float], float], cost: float, epochs: int, tail: float) -> Plan:
    """The cheapest plan that comes as far as ``epochs`` full epochs.

    gain: of x in (0, 1]. cost: of a low step over a full one. tail: share of the progress, in [0, 1], that stays full.
    """
    share = low_epochs = spent = 0.0
    for index in range(_GRID):
        x = (index + 0.5) / _GRID
        gained = gain(x)
        until = (index + 1) / _GRID
        if until > 1 - tail + 1e-9 or gained <= cost or low_epochs + epochs / gained / _GRID > epochs + 1e-9:
            break
        share = until
        low_epochs += epochs / gained / _GRID
        spent += cost / gained / _GRID
    return Plan(low_epochs, epochs * (1 - share), spent + 1 - share, share)


def gain_curve(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """gain(x): a falling power of x through the points by least squares, at most 1; 0 where any point has no gain."""
    if not points or any(not gain > 0 for _, gain in points):  # also where a low step diverged, and is no number
        return lambda x: 0.0
    logs = [(math.log(x), math.log(gain)) for x, gain in points]
    centre = sum(x for x, _ in logs) / len(logs), sum(y for _, y in logs) / len(logs)
    spread = sum((x - centre[0]) ** 2 for x, _ in logs)
    slope = min(0.0, sum((x - centre[0]) * (y - centre[1]) for x, y in logs) / spread) if spread else 0.0
    return lambda x: min(1.0, math.exp(centre[1] + slope * (math.log(x) - centre[0])))
