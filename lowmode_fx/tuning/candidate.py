"""``Candidate``: what was measured of one low mode."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.runtime.batch_growth import BatchGrowth
from lowmode_fx.tuning.gain import StepProgress
from lowmode_fx.tuning.growth import SAME
from lowmode_fx.tuning.plan import ModeGain, Plan, tail_at
from passes.ratios import largest_ratio


@dataclass(frozen=True)
class Candidate:
    """A measured configuration: its cost in full steps, its gain at each point, and the best plan with it.

    ``weight``: of its gradients. ``trials``: its gain by training, in a short and a longer run each, as often as they
    were run; the plan is then based on their means. ``family``: the name of the family that it is a part of, its own
    for a whole family. ``gain``: the gain that the plan uses, a function of the progress in (0, 1]. ``cost_error``: the
    standard error of ``cost``, NaN if it was not timed. ``notes``: those of its pair's report. ``growth``: images of
    its steps over those of full ones; cost and gain are then those of as many images as a full step has. ``compiled``:
    whether the timed steps were.
    """

    name: str
    config: LowModeConfig
    cost: float
    progress: tuple[StepProgress, ...]
    plan: Plan
    weight: float
    trials: tuple[tuple[float, ...], ...] = ()
    family: str = ""
    gain: Callable[[float], float] = field(default=lambda x: 0.0, repr=False, compare=False)
    cost_error: float = math.nan
    notes: tuple[str, ...] = ()
    growth: BatchGrowth = SAME
    compiled: bool = False

    @property
    def trial_gains(self) -> tuple[float, ...]:
        """The mean gain by training, in the short and in the longer runs; empty if there were none."""
        return tuple(map(statistics.fmean, zip(*self.trials, strict=True)))

    @property
    def trial_error(self) -> float:
        """The standard error of the gain in the longer runs; NaN for fewer than two."""
        longer = [each[-1] for each in self.trials]
        return statistics.stdev(longer) / math.sqrt(len(longer)) if len(longer) > 1 else math.nan

    @property
    def cost_of_progress(self) -> float:
        """Time that a full step's progress takes in this mode, in full steps, by its longer trial runs."""
        gain = self.trial_gains[-1]
        return self.cost / gain if gain > 0 else math.inf

    def mode_gain(self, tail: float) -> ModeGain:
        """The input of a plan over several modes; ``tail``: share that is left to larger images at r = 2.

        A mode that pools kernels leaves as much, at least: full-mode has to adapt to their whole size, too.
        """
        side = largest_ratio(self.config.ratio) if self.config.downsample_input else 1
        return ModeGain(self.gain, self.cost, tail_at(max(side, 2) if self.config.pools_kernels else side, tail))
