"""All draws of an epoch, copied to the device at once, so that no batch waits for the host."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowmode_fx.loading.augmentation import Augmentation, crop, mirror, window_starts
from lowmode_fx.loading.batch_order import BatchOrder
from lowmode_fx.loading.draws import crop_draws
from lowmode_fx.loading.mixing import Mixing
from lowmode_fx.loading.normalise import Normalise
from lowmode_fx.runtime.epoch_batches import epoch_batches

__all__ = ["EpochPlan", "plan_epoch"]


@dataclass(frozen=True)
class EpochPlan:
    """The images of an epoch in order, their labels, their crops and flips (``None`` if there are none), and how
    batches are mixed.

    ``indices``: int64 (M,), on the CPU. ``labels``: (M, …), ``starts``: int64 (M,), ``masks``: uint8 (M,), on the
    device. ``offsets``: where each batch from ``first`` on begins among them, and where the last one ends.
    """

    indices: Tensor
    labels: Tensor
    starts: Tensor | None
    masks: Tensor | None
    shift: int
    offsets: tuple[int, ...]
    normalise: Normalise
    epoch: int = 0
    first: int = 0
    mixing: Mixing | None = None

    @property
    def steps(self) -> range:
        """The numbers of the batches."""
        return range(self.first, self.first + len(self.offsets) - 1)

    @property
    def batches(self) -> list[Tensor]:
        """The indices of each batch, int64 (N,)."""
        return [self.indices[start:end] for start, end in itertools.pairwise(self.offsets)]

    def finish(self, step: int, images: Tensor) -> tuple[Tensor, Tensor]:
        """Batch ``step``, from its uint8 images (N, C, H, W): augmented, as float32, with its labels."""
        part = slice(*self.offsets[step - self.first : step - self.first + 2])
        if self.starts is not None:
            images = crop(images, self.starts[part], self.shift)
        if self.masks is not None:
            images = mirror(images, self.masks[part])
        finished, labels = self.normalise(images), self.labels[part]
        return (finished, labels) if self.mixing is None else self.mixing(finished, labels, self.epoch, step)


def plan_epoch(
    order: BatchOrder,
    epoch: int,
    labels: Tensor,
    shape: Sequence[int],
    augmentation: Augmentation,
    normalise: Normalise,
    device: torch.device,
    mixing: Mixing | None = None,
    *,
    sizes: Sequence[int] | None = None,
    first: int = 0,
    taken: int = 0,
) -> EpochPlan:
    """The plan of an epoch: a pure function of ``order``'s seed, the epoch and each image's index in the set.

    labels: of the whole set, (length, …), on any device.
    shape: (C, H, W) of an image. mixing: of whole batches, once they are normalised.
    sizes: of the batches from number ``first`` on, before which ``taken`` images went; by default all have the order's.
    """
    indices = order.indices(epoch)
    if sizes is None:
        taken = first * order.batch_size
        sizes = [each for _, each in epoch_batches(None, order.batch_size, len(indices) - taken, drop_last=False)]
    offsets = tuple(itertools.accumulate(sizes, initial=taken))
    rows, columns, mirrored = crop_draws(indices, order.seed, epoch, augmentation.shift)
    places = torch.zeros(len(indices), dtype=torch.int64)
    for start, end in itertools.pairwise(offsets):
        places[start:end] = torch.arange(end - start)
    starts = window_starts(rows, columns, places, shape, augmentation.shift).to(device) if augmentation.shift else None
    masks = mirrored.to(torch.uint8).mul_(255).to(device) if augmentation.flip else None
    chosen = labels[indices.to(labels.device)].to(device)
    return EpochPlan(indices, chosen, starts, masks, augmentation.shift, offsets, normalise, epoch, first, mixing)
