"""From gain and cost of low steps to a plan: the epochs of each mode, cheapest first, and the time saved.

Let x in [0, 1] be the progress of training, in full steps of a whole run. The progress of one full step costs 1 in
full-mode and ``cost / gain(x)`` in a low mode, where cost and gain are those of a low step in full steps. So low steps
pay while gain(x) > cost, and of several modes the one with the least cost at x is used, never one that is cheaper than
those before it. The gain falls during training: it is modelled as a power of x through the points where it was
measured. Each mode ends before the run does, by its ``tail``: the network then adapts to larger images, and finally to
full-mode. And low epochs are at most ``most_low`` times the full run's: the gain of more was never measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from passes.ratios import RatioLike, largest_ratio

#: Steps of the integral over x.
_GRID = 400
#: The share of the progress that is left when r = 2 ends, by default, and with four modes: as in the ladders that did
#: best (``bench/results/ablation_cpu.md``).
TAIL, TAIL_OF_FOUR = 0.5, 0.35
#: What is left at r = 4/3 and at r = 8/3.
_TAIL_AFTER, _TAIL_BEFORE = 0.2, 2 / 3
#: Steps of a ramp's sum over the epochs of one mode.
_RAMP_STEPS = 50


@dataclass(frozen=True)
class ModeGain:
    """What is known of one low mode.

    ``gain``: in full steps, as a function of x in (0, 1]. ``cost``: of a step, over a full one. ``tail``: share of the
    progress, in [0, 1], that is left when the mode ends.
    """

    gain: Callable[[float], float]
    cost: float
    tail: float


@dataclass(frozen=True)
class Plan:
    """Low epochs first, then full ones; ``time``: of the whole run, over that of the equivalent full run.

    ``epochs``: of each mode in order, and of full-mode. ``share``: progress of the low modes, in [0, 1].
    """

    epochs: tuple[float, ...]
    time: float
    share: float

    @property
    def low_epochs(self) -> float:
        """Epochs of all low modes."""
        return math.fsum(self.epochs[:-1])

    @property
    def full_epochs(self) -> float:
        """Epochs of full-mode."""
        return self.epochs[-1]


def make_plan(modes: Sequence[ModeGain], epochs: float, most_low: float = 1.0) -> Plan:
    """The cheapest plan that is equivalent to ``epochs`` full epochs.

    ``modes``: in order of cost. ``most_low``: maximum of low epochs over ``epochs``.
    """
    places, least, most = _assign(modes, 0.0), 0.0, 1.0
    if _low_share(modes, places) > most_low:
        # An extra cost of each low epoch, high enough that few enough of them pay.
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


def ramp_plan(modes: Sequence[ModeGain], shares: Sequence[float], epochs: float) -> Plan | None:
    """The run with these shares of epochs that is equivalent to ``epochs`` full ones; ``None`` if none makes progress.

    ``shares``: of each mode and of full-mode, in the order of the run; they sum to 1.
    """
    length = 1.0
    # In small steps of epochs, until the progress is made; a longer run stretches all shares equally.
    for _ in range(60):
        x = low = spent = 0.0
        for mode, share in zip([*modes, None], shares, strict=True):
            for _ in range(_RAMP_STEPS):
                part = length * share / _RAMP_STEPS
                x += part * (1.0 if mode is None else mode.gain(max(x, 0.5 / _GRID)))
                spent += part * (1.0 if mode is None else mode.cost)
            low = low if mode is None else x
        if x <= 0:
            return None
        if abs(x - 1) < 1e-3:
            break
        length /= x
    return Plan(tuple(epochs * length * share for share in shares), spent, low)


def tail_at(ratio: RatioLike, tail: float) -> float:
    """The share of the progress that is left to larger images than a mode's, by its ratio; ``tail`` at r = 2.

    In between, a line over the missing part of the side: a fifth is left at 4/3, as in the plain ramps, two thirds at
    8/3. With an eighth at 4/3 runs ended a point lower (``bench/results/ablation_cpu.md``).
    """
    missing = float(2 * (1 - 1 / largest_ratio(ratio)))  # 0.5 at 4/3, 1 at 2, 1.25 at 8/3
    points = ((0.0, 0.0), (0.5, min(_TAIL_AFTER, tail)), (1.0, tail), (1.25, max(_TAIL_BEFORE, tail)))
    for (x, y), (next_x, next_y) in itertools.pairwise(points):
        if missing <= next_x or next_x == points[-1][0]:
            return min(1.0, y + (next_y - y) * (missing - x) / (next_x - x))
    raise AssertionError("points are never empty")


def gain_curve(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """gain(x): a falling power of x through the points by least squares, at most 1; 0 if any point has no gain."""
    if not points or any(not gain > 0 for _, gain in points):  # also if a low step diverged and is NaN
        return lambda x: 0.0
    logs = [(math.log(x), math.log(gain)) for x, gain in points]
    centre = sum(x for x, _ in logs) / len(logs), sum(y for _, y in logs) / len(logs)
    spread = sum((x - centre[0]) ** 2 for x, _ in logs)
    slope = min(0.0, sum((x - centre[0]) * (y - centre[1]) for x, y in logs) / spread) if spread else 0.0
    return lambda x: min(1.0, math.exp(centre[1] + slope * (math.log(x) - centre[0])))


def _assign(modes: Sequence[ModeGain], charge: float) -> list[int]:
    """For each cell of x the index of its mode (full last), never decreasing, with the least total cost.

    ``charge``: extra cost of a low epoch.
    """
    infinite, full = math.inf, len(modes)
    costs = [0.0] * (full + 1)
    came_from: list[list[int]] = []
    for index in range(_GRID):
        x, until = _middle(index), (index + 1) / _GRID
        needed = []
        for mode in modes:
            gain = mode.gain(x)
            usable = gain > 0 and until <= 1 - mode.tail + 1e-9
            needed.append((mode.cost + charge) / gain if usable else infinite)
        needed.append(1.0)
        before, row = 0, []
        reached = []
        for place in range(full + 1):
            # The later mode if two cost the same: its gain is no less.
            before = place if costs[place] <= costs[before] else before
            reached.append(costs[before] + needed[place])
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
    """The indices with enough of the last low cells made full to leave at most ``most_low``."""
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
