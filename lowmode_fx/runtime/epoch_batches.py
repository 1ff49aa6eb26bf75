"""The batches of one epoch of a net whose modes have batches of their own sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lowmode_fx.lowering.mode import Mode
from passes.errors import NO_VALUE, OptionError

if TYPE_CHECKING:
    from lowmode_fx.runtime.model import LowModeModel

__all__ = ["check_batches", "epoch_batches"]


def epoch_batches(
    net: LowModeModel | None,
    batch_size: int,
    images: int,
    *,
    drop_last: bool,
    step: int = 0,
    epoch: int = 0,
    accumulation: int = 1,
) -> Iterator[tuple[Mode, int]]:
    """Yield the mode and the number of images of each batch, until an epoch's images are used up.

    Args:
        net: The net that trains; ``None`` for full-mode alone.
        batch_size: Images of a batch in full-mode.
        images: Images that are left of the epoch.
        drop_last: End before a batch for which too few images are left; otherwise that batch has what is left.
        step: Optimizer step of the first batch, from 0 over the whole run.
        epoch: The epoch, from 0.
        accumulation: Batches per optimizer step.
    """
    number = 0
    while images > 0:
        mode = Mode.FULL if net is None else net.mode_at(step + number // accumulation, epoch)
        size = batch_size if net is None else net.batch_size_in(mode, batch_size)
        if size > images:
            if drop_last:
                return
            size = images
        yield mode, size
        images -= size
        number += 1


def check_batches(net: LowModeModel | None, batch_size: int, images: int) -> None:
    """Raise ``ValueError`` if an epoch of ``images`` images is too short for a whole batch of some mode."""
    for mode in net.modes if net is not None else ():
        size = net.batch_size_in(mode, batch_size) if net is not None else batch_size
        if size > images:
            raise OptionError(
                *("batch_multiplier", NO_VALUE, f"makes {mode}-mode's batch {size} of {images} images"),
                "give a smaller one, or a smaller batch size",
            )
