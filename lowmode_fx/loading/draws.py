"""Random draws of an epoch, as pure functions of integers: the same on every device, in any order of steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowmode_fx.runtime.schedules.draws import GOLDEN_GAMMA, WORD, mix64

__all__ = ["DRAWS", "crop_draws", "drawing_from", "epoch_order", "generator_for", "mix_seed", "picture_seed"]

#: The version of the draws; version 1 drew the crops of each batch in sequence.
DRAWS = 2

_ORDER, _CROPS, _PICTURES, _MIXES = range(4)  # streams of draws with separate keys
_BITS = 24  # of a word, for each corner: even among 224 of them probabilities differ by less than 1 / 70,000


def generator_for(seed: int, epoch: int, step: int, stream: int) -> torch.Generator:
    """A CPU generator that depends only on the four numbers, well mixed."""
    state = np.random.SeedSequence([seed, epoch, step, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


def epoch_order(length: int, seed: int, epoch: int) -> Tensor:
    """The permutation of an epoch, int64 (length,)."""
    return torch.randperm(length, generator=generator_for(seed, epoch, 0, _ORDER))


def crop_draws(indices: Tensor, seed: int, epoch: int, shift: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the crop of each image of a set begins in the padded image, and whether the image is flipped.

    indices: int64 (N,), of the images in the set; the draws of one do not depend on the others.
    shift: pixels of padding on each side.

    Returns the rows and the columns, int64 (N,) from 0 to ``2 * shift``, and bool (N,), all on the CPU.
    """
    words = _words(indices, seed, epoch)
    span, low = 2 * shift + 1, 2**_BITS - 1
    rows = ((words >> 40) * span) >> _BITS
    columns = (((words >> 16) & low) * span) >> _BITS
    signed = (torch.from_numpy(values.astype(np.int64)) for values in (rows, columns))
    return (*signed, torch.from_numpy((words & 1).astype(np.bool_)))  # type: ignore[return-value]


def _words(indices: Tensor, seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    """64 random bits per image: SplitMix64 of (seed, epoch, index), the counter-based draws of the schedules."""
    key = _key(seed, _CROPS, epoch)
    # Products and sums of uint64 arrays wrap modulo 2**64 silently, as intended.
    counters = (indices.numpy().astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN_GAMMA)
    return mix64(counters + np.uint64(key))


def picture_seed(index: int, seed: int, epoch: int) -> int:
    """Of the generator that the changes of one image of a set draw from, in an epoch; in [0, 2**63)."""
    return _key(seed, _PICTURES, epoch, index) >> 1


def mix_seed(step: int, seed: int, epoch: int, rank: int) -> int:
    """Of the generator that says how a rank's batch of a step is mixed; in [0, 2**63)."""
    return _key(seed, _MIXES, epoch, rank, step) >> 1


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Inside, torch draws on the CPU from ``seed``; afterwards as if nothing had been drawn."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which begins a GPU's draws anew too
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _key(*parts: int) -> int:
    key = 0
    for part in parts:
        key = mix64((key + part + GOLDEN_GAMMA) & WORD)
    return key
