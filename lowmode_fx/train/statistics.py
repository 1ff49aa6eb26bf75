"""Mean and deviation of a set's images, and what in them looks like a mistake."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lowmode_fx.train.images import MemoryImages

#: Mean and deviation per channel, of images in [0, 1], and what a user should know of them.
Statistics = tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]

_LEVELS = 256
_DARK = 64  # of 256 levels: where no pixel reaches it, a file's depth is hardly used
_FLAT = 2 / 255  # a deviation of images in [0, 1] that is about 0


def channel_statistics(source: MemoryImages) -> Statistics:
    """Mean and standard deviation per channel of images in [0, 1], from a count of each of the 256 values: exact.

    Third, what a user should know of them, a line each.
    """
    values = torch.arange(_LEVELS, dtype=torch.float64) / (_LEVELS - 1)
    means, stds, brightest = [], [], 0
    for channel in range(source.shape[0]):
        counts = torch.zeros(_LEVELS, dtype=torch.float64)
        for chunk in source.images[:, channel].split(4096):  # bincount needs int64, eight times the memory
            counts += torch.bincount(chunk.flatten().long(), minlength=_LEVELS)
        brightest = max(brightest, int(counts.nonzero().max()))
        share = counts / counts.sum()
        mean = (share * values).sum()
        variance = (share * (values - mean) ** 2).sum()
        means.append(round(mean.item(), 6))
        stds.append(round(max(variance.sqrt().item(), 1 / 255), 6))  # an empty channel must not divide by zero
    return tuple(means), tuple(stds), tuple(_notes(stds, brightest))


def _notes(stds: list[float], brightest: int) -> Iterator[str]:
    flat = [str(channel) for channel, std in enumerate(stds) if std < _FLAT]
    if flat:
        which = "all channels" if len(flat) == len(stds) else f"channel {', '.join(flat)}"
        yield f"the training images hardly differ in {which}: deviation {min(stds):.4f} in [0, 1]; look at them"
    elif brightest < _DARK:
        yield (
            f"no training pixel is above {brightest} of 255: files that use a part of their depth, as 12 of 16 bits, "
            "lose most of it; scale them to the whole range"
        )
