"""What one training step of a batch costs in each mode: images, and work on weights once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lowmode_fx.counting.report import FlopReport, shares
from lowmode_fx.counting.step import count_step_flops
from lowmode_fx.lowering.ladder import Ladder
from passes.wording import first_line


@dataclass(frozen=True)
class StepCost:
    """A step of ``batch_size`` images, by mode's name.

    ``forward_macs``: all that fvcore counts, work on weights once. ``flops``: forward and backward of convolutions and
    matrix products, as torch's ``FlopCounterMode`` counts them; empty where it could not, with the ``reason``.
    """

    batch_size: int
    forward_macs: Mapping[str, int]
    flops: Mapping[str, int]
    reason: str = ""

    @property
    def forward_ratios(self) -> dict[str, float]:
        """Of each low mode, its forward over full-mode's."""
        return shares(self.forward_macs)

    @property
    def ratios(self) -> dict[str, float]:
        """Of each low mode, its flops over full-mode's; empty where there are none."""
        return shares(self.flops) if self.flops else {}


def step_cost(ladder: Ladder, flops: FlopReport, batch_size: int) -> StepCost:
    """What a step of so many images costs, of a ladder and its count.

    Raises ``ValueError`` for a batch that is no positive integer.
    """
    forward = flops.step_macs(batch_size)
    try:
        full, *low = count_step_flops(ladder, batch_size=batch_size)
    except (
        RuntimeError,
        NotImplementedError,
    ) as error:  # an operator without meta tensors, or one that asks for values
        return StepCost(batch_size, forward, {}, first_line(error))
    return StepCost(batch_size, forward, dict(zip(flops.modes, (*low, full), strict=True)))
