"""Does a scheduler step as often as its run does? What is wrong, in words."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from lowmode_fx.runtime.model import LowModeModel

#: Optimizer steps between two calls that nobody intends, at most.
_LATE = 10
#: Epochs by which a scheduler and its net may differ: users count from 0 or from 1.
_APART = 2


@dataclass
class Pace:
    """Of a scheduler that steps after each optimizer step of ``net``, ``steps`` times an epoch.

    ``epochs``: after how many its rate is 0; ``None`` if that was told before.
    """

    net: weakref.ref[LowModeModel]
    steps: int
    epochs: int | None
    step: int
    late: bool = False

    @classmethod
    def of(cls, net: LowModeModel, steps: int, epochs: int | None) -> Pace:
        """From now on."""
        return cls(weakref.ref(net), steps, epochs, net.step)

    def complaint(self, calls: int) -> str:
        """What is wrong after the scheduler's step number ``calls`` of the run; empty if nothing is.

        A call is late if it is so for the second time in a row: once, the net may have loaded its step.
        """
        net = self.net()
        if net is None:
            return ""
        passed, self.step, was_late = net.step - self.step, net.step, self.late
        self.late = self.steps > 1 and passed >= min(self.steps, _LATE)
        if self.late and was_late:
            return (
                f"CostCosineLR.step() comes after {passed} optimizer steps, so its rates lag behind the run; call it "
                "after each optimizer step, not once an epoch"
            )
        epoch = calls // self.steps
        if not self.late and net.epoch > 0 and abs(epoch - net.epoch) >= _APART:
            return (
                f"CostCosineLR is in epoch {epoch} after {calls} steps, {self.steps} an epoch, but the net is in epoch "
                f"{net.epoch}, so its rates don't fit the run; give the optimizer steps of an epoch as steps_per_epoch "
                "(in a resumed run, load the scheduler's state too)"
            )
        if self.epochs is not None and passed and calls > self.epochs * self.steps:
            return (
                f"CostCosineLR ended after {self.epochs * self.steps} steps (epochs={self.epochs}, "
                f"steps_per_epoch={self.steps}), but the net goes on, at a rate of 0; give the epochs of the run and "
                "the optimizer steps of one"
            )
        return ""
