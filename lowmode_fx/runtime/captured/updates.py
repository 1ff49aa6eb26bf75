"""The optimizer's part of a step: recorded with it, or taken in Python."""

from __future__ import annotations

import torch
from torch import Tensor

from lowmode_fx.runtime.captured.arithmetic import StepArithmetic
from lowmode_fx.runtime.captured.nets import SteppedNet
from lowmode_fx.runtime.captured.rates import DeviceRates, why_not_captured
from lowmode_fx.runtime.captured.recorded import Recorded


class Updates:
    """Takes the optimizer's steps, with learning rates on the device, and counts them.

    ``outside``: why they are not recorded, if so; they are then counted as any optimizer's. ``norm``: norm of the last
    step's gradients, if they are clipped.
    """

    def __init__(self, net: SteppedNet, arithmetic: StepArithmetic, device: torch.device) -> None:
        self.outside = why_not_captured(arithmetic.optimizer)
        self.norm: Tensor | None = None
        self._net = net
        self._arithmetic = arithmetic
        self._rates = DeviceRates(arithmetic.optimizer, device)

    def write_rates(self) -> None:
        """Bring the learning rates of the step that has begun to the device."""
        if self.outside is None:
            self._rates.write(self._net.rate_factor())

    def take(self) -> None:
        """A step, uncounted if it may be recorded."""
        if self.outside is None:
            with self._rates.in_place(), self._net.rates_written(), self._net.uncounted():
                self.norm = self._arithmetic.update()
        else:
            self.norm = self._arithmetic.update()

    def take_and_count(self) -> None:
        """A step in Python."""
        self.take()
        if self.outside is None:
            self.count(self._arithmetic.skipped)

    def record(self) -> tuple[Tensor | None, Tensor | None]:
        """A step inside a recording. Returns the norm, and above what a scaler had it skipped, as replays fill them."""
        with self._rates.in_place(capturable=True), self._net.rates_written(), self._net.uncounted():
            norm = self._arithmetic.update()
        return norm, self._arithmetic.skipped

    def note_replayed(self, recorded: Recorded) -> None:
        """A replay has taken a step."""
        self.norm = None if recorded.norm is None else recorded.norm.clone()
        self._arithmetic.skipped = recorded.skipped
        self.count(recorded.skipped)

    def count(self, skipped: Tensor | None) -> None:
        """Count a step, unless the gradient scaler had it skipped; waits for the device if asked."""
        if skipped is None or not bool(skipped):
            self._net.count_step(self._arithmetic.optimizer)
