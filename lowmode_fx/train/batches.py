"""Batches whose order and augmentation are pure functions of (seed, epoch, step): a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from lowmode_fx.train.data import Augmentation, DataSplits
from lowmode_fx.train.images import ImageSource
from passes.errors import OptionError

_ORDER, _AUGMENT = 0, 1  # two streams of draws that never share a seed


def generator_for(seed: int, epoch: int, step: int, stream: int) -> torch.Generator:
    """A generator on the CPU that depends on the four numbers only, well mixed."""
    state = np.random.SeedSequence([seed, epoch, step, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


def epoch_order(length: int, seed: int, epoch: int) -> torch.Tensor:
    """The permutation int64 (length,) of an epoch."""
    return torch.randperm(length, generator=generator_for(seed, epoch, 0, _ORDER))


def steps_per_epoch(source: ImageSource, batch_size: int) -> int:
    """Whole batches only: the ragged rest is left out, another rest each epoch, so that each graph has one shape."""
    if batch_size > len(source):
        problem = f"is more than the {len(source)} training images"
        raise OptionError("batch_size", batch_size, problem, "give a smaller one")
    return len(source) // batch_size


def augment(images: torch.Tensor, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """A random crop of each zero-padded image, and a flip of half of them, in one gather. (N, C, H, W) → the same."""
    shift = augmentation.shift
    if not shift and not augmentation.flip:
        return images
    count, channels, height, width = images.shape
    device = images.device
    # Drawn on the CPU wherever the images are, so that the draws don't depend on the device.
    corners = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    flips = torch.randint(0, 2, (count, 1), generator=generator).bool() & augmentation.flip
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(flips, width - 1 - columns, columns) + corners[1]
    rows = torch.arange(height) + corners[0]
    padded = torch.nn.functional.pad(images, (shift, shift, shift, shift))
    every = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[every, channel, rows.to(device)[:, None, :, None], columns.to(device)[:, None, None, :]]


class Normalise:
    """uint8 (N, C, H, W) → float32 of zero mean and unit deviation per channel, on ``device``."""

    def __init__(self, splits: DataSplits, device: torch.device) -> None:
        mean, std = (torch.tensor(v, dtype=torch.float32, device=device) for v in (splits.mean, splits.std))
        self.scale = (1 / (255 * std)).view(1, -1, 1, 1)
        self.offset = (-mean / std).view(1, -1, 1, 1)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.offset, images.to(self.scale.device, non_blocking=True).float(), self.scale)


def train_batches(
    splits: DataSplits,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    device: torch.device,
    first: int = 0,
    workers: int = 0,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The (images (N, C, H, W), labels (N,)) of an epoch, from its step ``first`` on. All batches are whole."""
    steps = steps_per_epoch(splits.train, batch_size)
    order = epoch_order(len(splits.train), seed, epoch)
    indices = [order[step * batch_size : (step + 1) * batch_size] for step in range(first, steps)]
    normalise = Normalise(splits, device)
    for step, images in enumerate(splits.train.fetch(indices, workers), start=first):
        labels = splits.train.labels[indices[step - first].to(splits.train.labels.device)]
        images = augment(images, splits.augmentation, generator_for(seed, epoch, step, _AUGMENT))
        yield normalise(images), labels.to(device)


def val_batches(
    splits: DataSplits, *, batch_size: int, device: torch.device, workers: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The whole validation set in order, unaugmented; the last batch may be smaller."""
    indices = list(torch.arange(len(splits.val)).split(batch_size))
    normalise = Normalise(splits, device)
    for number, images in zip(indices, splits.val.fetch(indices, workers), strict=True):
        yield normalise(images), splits.val.labels[number.to(splits.val.labels.device)].to(device)


class EpochBatches:
    """The training batches of one epoch as a loader: it has a length, and each iteration gives the same batches."""

    def __init__(self, splits: DataSplits, batch_size: int, device: torch.device, seed: int = 0) -> None:
        self.splits, self.batch_size, self.device, self.seed = splits, batch_size, device, seed

    def __len__(self) -> int:
        return steps_per_epoch(self.splits.train, self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return train_batches(self.splits, batch_size=self.batch_size, seed=self.seed, epoch=0, device=self.device)
