"""From what low steps gain and cost to a plan: how many epochs each mode has, cheapest first, and what is saved.

Let x in [0, 1] be how far training has come, in full steps of a whole run. A full step's way costs 1 in full-mode and
``cost / gain(x)`` in a low mode, by a low step's cost and gain in full steps. So low steps pay while gain(x) > cost,
and of several modes the one that costs least at x is taken, never one that is cheaper than those before it. The gain
falls as training goes on: as a power of x, it is taken, through the places where it was measured. Each mode ends
before the run does, by its ``tail``: the network settles there on larger images, at last on what it answers in
full-mode. And low epochs are no more than ``most_low`` times the full run's: what more of them would gain is beyond
anything that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from passes.ratios import RatioLike, largest_ratio

#: Steps of the integral over x.
_GRID = 400
#: Steps of a ramp's sum over the epochs of one mode.
_RAMP_STEPS = 50


@dataclass(frozen=True)
class ModeGain:
    """What is known of one low mode.

    gain: in full steps, of x in (0, 1]. cost: of a step, over a full one. tail: share of the progress, in [0, 1], at
    whose beginning the mode ends.
    """

    gain: Callable[[float], float]
    cost: float
    tail: float


@dataclass(frozen=True)
class Plan:
    """Low epochs first, full ones after; ``time``: of the whole run, in that of as many full epochs as it stands for.

    ``epochs``: of each mode, as they were given, and of full-mode. ``share``: how far the low modes carry the training,
    in [0, 1].
    """

    epochs: tuple[float, ...]
    time: float
    share: float

    @property
    def low_epochs(self) -> float:
        """Of all low modes."""
        return math.fsum(self.epochs[:-1])

    @property
    def full_epochs(self) -> float:
        """Of full-mode."""
        return self.epochs[-1]


def make_plan(modes: Sequence[ModeGain], epochs: float, most_low: float = 1.0) -> Plan:
    """The cheapest plan that comes as far as ``epochs`` full epochs.

    modes: rising in cost. most_low: low epochs over ``epochs``, at most.
    """
    places, least, most = _assign(modes, 0.0), 0.0, 1.0
    if _low_share(modes, places) > most_low:
        # A price on each low epoch, high enough that few enough pay.
        while _low_share(modes, _assign(modes, most)) > most_low:
            most *= 2
        for _ in range(40):
            middle = (least + most) / 2
            fits = _low_share(modes, _assign(modes, middle)) <= most_low
            least, most = (least, middle) if fits else (middle, most)
        places = min(
            _assign(modes, most),
            _cut(modes, _assign(modes, least), most_low),
            key=lambda each: _plan(modes, each, epochs).time,
        )
    return _plan(modes, places, epochs)


def ramp_time(modes: Sequence[ModeGain], shares: Sequence[float]) -> float:
    """The time of a run with these shares of epochs, which goes as far as a full one, over the full one's.

    shares: of each mode and of full-mode, in the order of the run; adding up to 1.
    """
    x = epochs = spent = 0.0
    # In small steps of epochs, until the progress is made; a longer run stretches all shares alike.
    length = 1.0
    for _ in range(60):
        x = spent = 0.0
        for mode, share in zip([*modes, None], shares, strict=True):
            for _ in range(_RAMP_STEPS):
                epochs = length * share / _RAMP_STEPS
                x += epochs * (1.0 if mode is None else mode.gain(max(x, 0.5 / _GRID)))
                spent += epochs * (1.0 if mode is None else mode.cost)
        if abs(x - 1) < 1e-3 or x <= 0:
            break
        length /= x
    return spent if x > 0 else math.inf


def tail_at(ratio: RatioLike, tail: float) -> float:
    """How much of the progress is left to larger images than a mode's, by its ratio; ``tail`` at r = 2.

    In proportion to the square of the side that is missing: an eighth at 4/3, where a half is left at 2. So ladders end
    that did well (``bench/results/ablation_cpu.md`` and shares of 0.5, 0.3, 0.2).
    """
    return min(1.0, tail * (2 * (1 - 1 / largest_ratio(ratio))) ** 2)


def gain_curve(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """gain(x): a falling power of x through the points by least squares, at most 1; 0 where any point has no gain."""
    if not points or any(not gain > 0 for _, gain in points):  # also where a low step diverged, and is no number
        return lambda x: 0.0
    logs = [(math.log(x), math.log(gain)) for x, gain in points]
    centre = sum(x for x, _ in logs) / len(logs), sum(y for _, y in logs) / len(logs)
    spread = sum((x - centre[0]) ** 2 for x, _ in logs)
    slope = min(0.0, sum((x - centre[0]) * (y - centre[1]) for x, y in logs) / spread) if spread else 0.0
    return lambda x: min(1.0, math.exp(centre[1] + slope * (math.log(x) - centre[0])))


def _assign(modes: Sequence[ModeGain], charge: float) -> list[int]:
    """For each cell of x the place of its mode (full last), never falling, at the least cost altogether.

    charge: what a low epoch costs beside its steps.
    """
    infinite, full = math.inf, len(modes)
    costs = [0.0] * (full + 1)
    came_from: list[list[int]] = []
    for index in range(_GRID):
        x, until = _middle(index), (index + 1) / _GRID
        prices = []
        for mode in modes:
            gain = mode.gain(x)
            usable = gain > 0 and until <= 1 - mode.tail + 1e-9
            prices.append((mode.cost + charge) / gain if usable else infinite)
        prices.append(1.0)
        before, row = 0, []
        reached = []
        for place in range(full + 1):
            # A later mode where two cost the same: it teaches no less.
            before = place if costs[place] <= costs[before] else before
            reached.append(costs[before] + prices[place])
            row.append(before)
        costs = reached
        came_from.append(row)
    place = min(range(full + 1), key=lambda each: (costs[each], -each))
    places = []
    for row in reversed(came_from):
        places.append(place)
        place = row[place]
    return places[::-1]


def _cut(modes: Sequence[ModeGain], places: list[int], most_low: float) -> list[int]:
    """The places with as many of the last low cells made full as leave no more than ``most_low``."""
    cut = list(places)
    for index in reversed(range(_GRID)):
        if _low_share(modes, cut) <= most_low:
            break
        cut[index] = len(modes)
    return cut


def _plan(modes: Sequence[ModeGain], places: Sequence[int], epochs: float) -> Plan:
    shares, time = [0.0] * len(modes), 0.0
    for index, place in enumerate(places):
        if place < len(modes):
            step = 1 / modes[place].gain(_middle(index)) / _GRID
            shares[place] += step
            time += modes[place].cost * step
    low = sum(place < len(modes) for place in places) / _GRID
    return Plan((*(epochs * share for share in shares), epochs * (1 - low)), time + 1 - low, low)


def _low_share(modes: Sequence[ModeGain], places: Sequence[int]) -> float:
    """Low epochs over the full run's."""
    return math.fsum(
        1 / modes[place].gain(_middle(index)) / _GRID for index, place in enumerate(places) if place < len(modes)
    )


def _middle(index: int) -> float:
    return (index + 0.5) / _GRID
