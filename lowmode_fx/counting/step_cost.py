"""The cost of one training step in each mode: the work for its images, and the work on weights once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lowmode_fx.counting.report import FlopReport, shares
from lowmode_fx.counting.step import count_step_flops
from lowmode_fx.lowering.ladder import Ladder
from passes.wording import first_line


@dataclass(frozen=True)
class StepCost:
    """The cost of a step of ``batch_size`` images, by mode.

    Attributes:
        batch_size: Images of the step.
        forward_macs: Multiply-adds of the forward, as fvcore counts them, with the work on weights once.
        flops: Flops of forward and backward of convolutions and matrix products, as torch's ``FlopCounterMode`` counts
            them; empty if it fails.
        reason: Why ``flops`` is empty.
    """

    batch_size: int
    forward_macs: Mapping[str, int]
    flops: Mapping[str, int]
    reason: str = ""

    @property
    def forward_ratios(self) -> dict[str, float]:
        """The forward macs of each low mode, divided by full-mode's."""
        return shares(self.forward_macs)

    @property
    def ratios(self) -> dict[str, float]:
        """The flops of each low mode, divided by full-mode's; empty if there are none."""
        return shares(self.flops) if self.flops else {}


def step_cost(ladder: Ladder, flops: FlopReport, batch_size: int) -> StepCost:
    """The cost of a step of ``batch_size`` images, given a ladder and its count.

    Raises ``ValueError`` if ``batch_size`` is not a positive integer.
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
