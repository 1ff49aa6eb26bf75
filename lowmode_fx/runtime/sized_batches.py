"""The sizes of batches that loaders ask a net for, and the learning rates that follow them once one has asked."""

from __future__ import annotations

import warnings

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.batch_growth import BatchGrowth, BatchMultiplier
from passes.spelling import setting


class SizedBatches:
    """Tells the sizes of a net's batches, and warns once if nobody asks for them: all would have one size.

    ``batch_multiplier``: as the user gave it, for the warning.
    """

    def __init__(self, growth: BatchGrowth, batch_multiplier: BatchMultiplier) -> None:
        self.growth = growth
        self._batch_multiplier = batch_multiplier
        self._asked = self._warned = False

    def size_for_loader(self, mode: Mode, batch_size: int) -> int:
        """Images of a batch in ``mode``, where one in full-mode has ``batch_size``; rates follow it from now on."""
        self._asked = True
        return self.growth.size(mode, batch_size)

    def due_rate_factor(self, mode: Mode | None) -> float:
        """Of the optimizer step that is due, in ``mode``: 1, with a warning, while no loader has asked for sizes."""
        if self.growth.multiplier(mode) == 1 or self._asked:
            return self.growth.rate_factor(mode)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{setting('batch_multiplier', self._batch_multiplier)} has no effect: no loader has asked the net for "
                "the sizes of its batches; use host_loader, ModeBatchSampler.for_net(net) or DeviceLoader(net=net), or "
                "give low steps net.batch_size_in(mode, batch_size) images",
                stacklevel=3,
            )
        return 1.0
