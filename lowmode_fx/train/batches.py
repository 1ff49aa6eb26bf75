"""Batches whose order and augmentation are pure functions of (seed, epoch, image): a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lowmode_fx.loading.augmentation import UNCHANGED, Augmentation
from lowmode_fx.loading.batch_order import BatchOrder
from lowmode_fx.loading.device_loader import DeviceLoader
from lowmode_fx.loading.epoch_plan import plan_epoch
from lowmode_fx.loading.mixing import mixing_of
from lowmode_fx.loading.normalise import Normalise
from lowmode_fx.loading.prefetch import PrefetchLoader
from lowmode_fx.runtime.epoch_batches import check_batches, epoch_batches
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.train.augmenting import ChangedImages, Pictures
from lowmode_fx.train.images import ImageSource, MemoryImages
from lowmode_fx.train.ranks import Ranks
from lowmode_fx.train.splits import DataSplits
from passes.errors import OptionError


def steps_per_epoch(source: ImageSource, batch_size: int) -> int:
    """Whole batches only: the ragged rest is left out, another rest each epoch, so that each graph has one shape."""
    if batch_size > len(source):
        problem = f"is more than the {len(source)} training images"
        raise OptionError("batch_size", batch_size, problem, "give a smaller one")
    return len(source) // batch_size


def train_batches(
    splits: DataSplits,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    device: torch.device,
    first: int = 0,
    workers: int = 0,
    ranks: Ranks | None = None,
    net: LowModeModel | None = None,
    taken: int | None = None,
    channels_last: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The (images (N, C, H, W), labels (N,)) of an epoch, from its step ``first`` on. All batches are whole.

    They are the same wherever the images lie: on the device, in the host's memory or in files. ranks: those who share
    each batch; this one's part. net: one whose batches grow, which takes its steps from ``net.step`` on; taken: images
    of this rank before them. channels_last: the memory format of the images.
    """
    ranks = ranks or Ranks()
    steps_per_epoch(splits.train, batch_size)
    share = ranks.share(batch_size)
    order = BatchOrder(
        len(splits.train), share, seed, shuffle=True, drop_last=True, rank=ranks.rank, world_size=ranks.size
    )
    check_batches(net, share, order.images)
    source = splits.train
    if splits.transform is not None:
        source = ChangedImages(source, Pictures(splits.transform, seed, epoch), splits.image_shape)
    batches = _batches(splits, source, order, splits.augmentation, epoch, device, first, workers, net, taken)
    return _in_channels_last(batches) if channels_last else batches


def _in_channels_last(
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for images, labels in batches:
        yield images.contiguous(memory_format=torch.channels_last), labels


def val_batches(
    splits: DataSplits, *, batch_size: int, device: torch.device, workers: int = 0, ranks: Ranks | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The whole validation set in order, unaugmented; the last batch may be smaller.

    ranks: those who share the set, image by image in turn; where they can't evenly, the first images come again.
    """
    ranks = ranks or Ranks()
    order = BatchOrder(len(splits.val), batch_size, rank=ranks.rank, world_size=ranks.size)
    return _batches(splits, splits.val, order, UNCHANGED, 0, device, 0, workers)


def _batches(
    splits: DataSplits,
    source: ImageSource,
    order: BatchOrder,
    augmentation: Augmentation,
    epoch: int,
    device: torch.device,
    first: int,
    workers: int,
    net: LowModeModel | None = None,
    taken: int | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    if isinstance(source, MemoryImages) and source.images.device.type == device.type:
        loader = DeviceLoader(
            source.images,
            source.labels,
            order.batch_size,
            order.shuffle,
            drop_last=order.drop_last,
            mean=splits.mean,
            std=splits.std,
            augmentation=augmentation,
            seed=order.seed,
            rank=order.rank,
            world_size=order.world_size,
            device=device,
            classes=splits.num_classes,
            net=net,
        )
        yield from loader.batches(epoch, first, taken)
        return
    normalise = Normalise(splits.mean, splits.std, device)
    mixing = mixing_of(augmentation, source.labels, splits.num_classes, order.seed, order.rank)
    taken = first * order.batch_size if taken is None else taken
    coming = epoch_batches(
        net,
        order.batch_size,
        order.images - taken,
        drop_last=order.drop_last,
        step=net.step if net is not None else 0,
        epoch=epoch,
    )
    plan = plan_epoch(
        *(order, epoch, source.labels, source.shape, augmentation, normalise, device, mixing),
        sizes=[size for _, size in coming],
        first=first,
        taken=taken,
    )
    # They travel as bytes, a quarter of what floats take, and are cropped and normalised on the device.
    fetched = PrefetchLoader(source.fetch(plan.batches, workers, pin=device.type == "cuda"), device)
    for step, images in enumerate(fetched, start=first):
        yield plan.finish(step, images)


class EpochBatches:
    """The training batches of one epoch as a loader: it has a length, and each iteration gives the same batches."""

    def __init__(
        self,
        splits: DataSplits,
        batch_size: int,
        device: torch.device,
        seed: int = 0,
        channels_last: bool = False,
    ) -> None:
        self.splits, self.batch_size, self.device, self.seed = splits, batch_size, device, seed
        self.channels_last = channels_last

    def __len__(self) -> int:
        return steps_per_epoch(self.splits.train, self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return train_batches(
            self.splits,
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=0,
            device=self.device,
            channels_last=self.channels_last,
        )
