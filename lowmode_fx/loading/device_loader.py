"""``DeviceLoader``: a set of images that lies on the device as bytes; batches are made there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.loading.augmentation import UNCHANGED, Augmentation
from lowmode_fx.loading.batch_order import BatchOrder
from lowmode_fx.loading.epoch_plan import plan_epoch
from lowmode_fx.loading.mixing import mixing_of
from lowmode_fx.loading.normalise import Normalise
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.epoch_batches import check_batches, epoch_batches
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.nets import as_net
from lowmode_fx.utils.validation import as_count, as_sequence, wrong_type

__all__ = ["DeviceLoader"]


class DeviceLoader:
    """Batches of a set of images that lies on the device: selected, cropped, flipped and normalised there.

    The order, crops and flips of an epoch are functions of the seed, the epoch and each image's index: they are the
    same on a CPU and a GPU, with batches of any size, on any number of ranks, and after a resume. They are drawn once
    per epoch; no batch waits for the host, and all batches have one shape except for a ragged last one.

    Args:
        images: All images of the set, uint8 ``(N, C, H, W)``.
        labels: ``(N,)``, or ``(N, …)`` if they don't move with the pixels.
        batch_size: As in ``DataLoader``.
        shuffle: As in ``DataLoader``.
        drop_last: As in ``DataLoader``: leave out a ragged last batch.
        mean: Mean of each channel, for images in [0, 1].
        std: Standard deviation of each channel, for images in [0, 1].
        augmentation: Random changes of each image and, with ``mixup`` or ``cutmix``, of batches, whose labels are then
            float32 ``(B, classes)``.
        classes: Number of classes of the labels, where they are mixed.
        seed: Seed of order, crops and flips.
        rank: Rank of this process, as in ``DistributedSampler``; each process holds the whole set.
        world_size: Number of processes that share the set.
        device: Where the images are held; ``None`` leaves them where they are.
        net: The net that trains, if its batches depend on the mode of their step: they are downsampled with
            ``downsample_on="host"``, and have more images in low-mode with a ``batch_multiplier``. Steps are counted
            from ``net.step`` at the start of an iteration.
        accumulation: Batches per optimizer step of ``net``.

    Raises:
        TypeError: ``images`` is not uint8, or labels that are to be mixed are not int64.
        ValueError: Shapes don't fit, labels that are to be mixed are not classes below ``classes``, labels would have
            to move with cropped images, the net downsamples itself and its batches have one size, or there would be no
            full batch.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        drop_last: bool = False,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        augmentation: Augmentation = UNCHANGED,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str | None = None,
        net: LowModeModel | None = None,
        accumulation: int = 1,
        classes: int | None = None,
    ) -> None:
        _check(images, labels, augmentation, mean, std)
        if net is not None and as_net(net).downsample_on != "host" and not net.batches_grow:
            raise ValueError(
                "net downsamples on the device too, so images would shrink twice; give downsample_on='host', or leave "
                "out net"
            )
        self.order = BatchOrder(len(images), batch_size, seed, shuffle, drop_last, rank, world_size)
        if drop_last:
            check_batches(net, batch_size, self.order.images)
        self.device = images.device if device is None else torch.device(device)
        # Images must be contiguous: channels-last images would be slow to gather.
        self.images, self.labels = images.to(self.device).contiguous(), labels.to(self.device)
        self.normalise = Normalise(mean, std, self.device)
        self.augmentation = augmentation
        self.mixing = mixing_of(augmentation, labels, classes, seed, rank)
        self.net, self.accumulation = net, as_count("accumulation", accumulation, 1)
        self.epoch = 0
        self.step = self._first = 0
        self.taken = self._taken = 0

    def __len__(self) -> int:
        """Number of batches in an epoch; of a net whose batches grow, in the epoch that the net's next step begins."""
        return len(self.order) if self.net is None else len(self._sizes(self.net.epoch, 0, self.net.step))

    def _sizes(self, net_epoch: int, taken: int, step: int) -> list[tuple[Mode, int]]:
        order = self.order
        options: dict[str, Any] = {"step": step, "epoch": net_epoch, "accumulation": self.accumulation}
        left = order.images - taken
        return list(epoch_batches(self.net, order.batch_size, left, drop_last=order.drop_last, **options))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch before it begins, as for ``DistributedSampler``; without it every pass is the same.

        Args:
            epoch: The epoch, from 0.
        """
        if epoch != self.epoch:
            self.load_state_dict({"epoch": epoch, "step": 0})

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and the number of its batches so far; their images too if batches grow."""
        images = {"images": self.taken} if self.net is not None and self.net.batches_grow else {}
        return {"epoch": self.epoch, "step": self.step, **images}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Resume from a state dict: the next iteration yields the rest of that epoch.

        Args:
            state: The result of ``state_dict()``.
        """
        self.epoch = as_count("epoch", state["epoch"])
        self.step = self._first = as_count("step", state["step"])
        self.taken = self._taken = as_count("images", state.get("images", self.step * self.order.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        (first, taken), self._first, self._taken = (self._first, self._taken), 0, 0
        for step, batch in enumerate(self.batches(self.epoch, first, taken), start=first + 1):
            self.step = step
            taken += len(batch[0])
            self.taken = taken
            yield batch

    def batches(self, epoch: int, first: int = 0, taken: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, from batch ``first`` on.

        Args:
            epoch: The epoch, from 0.
            first: Number of batches to skip.
            taken: Images in them; by default ``batch_size`` in each.

        Yields:
            (images, labels) - images float32 ``(B, C, H, W)``, labels ``(B, …)``.
        """
        shape = self.images.shape[1:]
        taken = first * self.order.batch_size if taken is None else taken
        began, net_epoch = (self.net.step, self.net.epoch) if self.net is not None else (0, 0)
        coming = self._sizes(net_epoch, taken, began)
        if self.net is not None and coming:
            self.net.epoch_has(math.ceil(len(coming) / self.accumulation))
        plan = plan_epoch(
            *(self.order, epoch, self.labels, shape, self.augmentation, self.normalise, self.device, self.mixing),
            sizes=[size for _, size in coming],
            first=first,
            taken=taken,
        )
        indices = plan.indices.to(self.device)
        for step, start, (mode, size) in zip(plan.steps, plan.offsets, coming, strict=False):
            images, labels = plan.finish(step, self.images.index_select(0, indices[start : start + size]))
            if self.net is not None and self.net.downsample_on == "host" and mode is not Mode.FULL:
                images = self.net.ladder.rung(mode).downsample(images)
            yield images, labels


def _check(
    images: Tensor, labels: Tensor, augmentation: Augmentation, mean: Sequence[float], std: Sequence[float]
) -> None:
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise wrong_type(name, value, "a tensor")
    if not isinstance(augmentation, Augmentation):
        raise wrong_type("augmentation", augmentation, "an Augmentation, such as Augmentation(flip=True)")
    if images.dtype != torch.uint8:
        raise TypeError(f"images have dtype {images.dtype}; give the decoded bytes, torch.uint8")
    if images.dim() != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}; give (N, C, H, W)")
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images have {len(labels)} labels; give one label per image")
    if labels.dim() > 2 and augmentation != UNCHANGED:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} but are not cropped and flipped with their images; leave "
            "out augmentation, and augment both in the training loop"
        )
    for name, values in (("mean", mean), ("std", std)):
        as_sequence(name, values, "a tuple of one number, or of one per channel, as (0.5,)")
        if len(values) not in (1, images.shape[1]):
            raise ValueError(f"{name} has {len(values)} values for {images.shape[1]} channels; give one per channel")
