"""Batches that grow as images shrink: how many images a step of each mode takes, and the learning rate that follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules import Schedule, StatefulSchedule
from lowmode_fx.utils.validation import as_choice, as_multiplier
from passes.errors import OptionError

__all__ = ["BatchGrowth", "BatchMultiplier", "LrRule", "read_batch_growth"]

#: What a step's learning rate is multiplied by, for a batch of m times as many images: m ("linear", Goyal et al.,
#: arXiv 1706.02677), its square root ("sqrt", Krizhevsky, arXiv 1404.5997) or 1 ("none").
LrRule = Literal["linear", "sqrt", "none"]
BatchMultiplier = float | Mapping[str, float] | Literal["pixels"]


@dataclass(frozen=True)
class BatchGrowth:
    """Images of a low step over those of a full one, by mode, and the rule that its learning rate follows."""

    multipliers: Mapping[Mode, float]
    lr_rule: LrRule = "linear"

    @property
    def grows(self) -> bool:
        """Whether any mode has batches of another size than full-mode's."""
        return any(multiplier != 1 for multiplier in self.multipliers.values())

    def multiplier(self, mode: Mode | None) -> float:
        """Images of a batch in ``mode`` over those in full-mode."""
        return 1.0 if mode is None else self.multipliers.get(mode, 1.0)

    def size(self, mode: Mode, batch_size: int) -> int:
        """Images of a batch in ``mode``, rounded down, where one in full-mode has ``batch_size``."""
        # Rounded first: 9 × (4/3)² are 16 images, also where the product comes out as 15.999….
        return max(1, math.floor(round(batch_size * self.multiplier(mode), 9)))

    def rate_factor(self, mode: Mode | None) -> float:
        """What the learning rate of a step in ``mode`` is multiplied by."""
        multiplier = self.multiplier(mode)
        if multiplier == 1:
            return 1.0
        return {"linear": multiplier, "sqrt": math.sqrt(multiplier), "none": 1.0}[self.lr_rule]


def read_batch_growth(
    ladder: Ladder, schedule: Schedule, batch_multiplier: BatchMultiplier, lr_rule: str
) -> BatchGrowth:
    """The growth that ``LowModeModel``'s arguments describe.

    Raises ``ValueError`` for a mode that the ladder does not have, a multiplier below 1, an unknown rule, and a
    schedule that decides modes only as training goes on, so that no loader can know a batch's size.
    """
    rule = as_choice("lr_rule", lr_rule, get_args(LrRule))
    if batch_multiplier == "pixels":
        full = math.prod(ladder.inputs.image.shape[2:])
        found = {rung.mode: full / math.prod(rung.inputs.image.shape[2:]) for rung in ladder.rungs}
    elif isinstance(batch_multiplier, Mapping):
        found = {ladder.rung(Mode(name)).mode: _multiplier(value) for name, value in batch_multiplier.items()}
    else:
        found = dict.fromkeys(ladder.modes[:-1], _multiplier(batch_multiplier))
    growth = BatchGrowth(found, rule)
    if growth.grows and isinstance(schedule, StatefulSchedule):
        kind = type(schedule).__name__
        raise OptionError(
            "batch_multiplier", batch_multiplier, f"needs modes before {kind} decides them", "give another schedule"
        )
    return growth


def _multiplier(value: float) -> float:
    if isinstance(value, str):
        raise OptionError("batch_multiplier", value, "is unknown", "give 'pixels', a number, or a number for each mode")
    return as_multiplier(value)
