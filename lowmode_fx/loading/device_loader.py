"""``DeviceLoader``: a set of images that lies on the device as bytes; each batch is made there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lowmode_fx.loading.augmentation import UNCHANGED, Augmentation
from lowmode_fx.loading.batch_order import BatchOrder
from lowmode_fx.loading.epoch_plan import plan_epoch
from lowmode_fx.loading.mixing import mixing_of
from lowmode_fx.loading.normalise import Normalise
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.utils.validation import as_count, wrong_type

__all__ = ["DeviceLoader"]


class DeviceLoader:
    """Batches of images that lie on the device: chosen, cropped, mirrored and normalised there, without the host.

    An epoch's order, crops and flips are functions of the seed, the epoch and each image's index: the same pictures on
    a CPU and a GPU, with batches of any size, on any number of ranks, and after a resume. They are drawn once an epoch;
    no batch waits for the host, and all have one shape but for a ragged last one (``drop_last=True`` leaves it out).

    images: uint8 (N, C, H, W), all of the set. labels: (N,), or (N, …) if they don't move with the pixels.
    batch_size, shuffle, drop_last: as ``DataLoader`` has them.
    mean, std: per channel, of images in [0, 1].
    augmentation: the random changes of each image, and of batches: with ``mixup`` or ``cutmix`` labels come as float32
        (B, classes).
    classes: of the labels, where they are mixed.
    seed: of order, crops and flips.
    rank, world_size: this process among those that share the set, as with ``DistributedSampler``; each holds all of it.
    device: where the images are held; ``None`` leaves them where they are.
    net: one with ``downsample_on="host"``, whose low steps get their images at their own size. Its steps are counted
        from ``net.step`` as it is when an iteration begins. accumulation: batches for each of its optimizer steps.

    Raises ``TypeError`` for images that aren't uint8, ``ValueError`` for shapes that don't fit, for maps as labels of
    images that move under them, for a net that downsamples by itself, and for what ``BatchOrder`` refuses.
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
        if net is not None and net.downsample_on != "host":
            raise ValueError(
                "the net downsamples on the device, and would do it twice; make it with downsample_on='host', or leave "
                "out net"
            )
        self.order = BatchOrder(len(images), batch_size, seed, shuffle, drop_last, rank, world_size)
        self.device = images.device if device is None else torch.device(device)
        # Images and their pixels in a row: what channels-last images would be gathered from is not.
        self.images, self.labels = images.to(self.device).contiguous(), labels.to(self.device)
        self.normalise = Normalise(mean, std, self.device)
        self.augmentation = augmentation
        self.mixing = mixing_of(augmentation, classes, seed, rank)
        self.net, self.accumulation = net, as_count("accumulation", accumulation, 1)
        self.epoch = 0
        self.step = self._first = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch (from 0) before it begins, as with ``DistributedSampler``; without, each pass is the same."""
        if epoch != self.epoch:
            self.load_state_dict({"epoch": epoch, "step": 0})

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches have been given out."""
        return {"epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there: the next iteration gives the rest of that epoch."""
        self.epoch = as_count("epoch", state["epoch"])
        self.step = self._first = as_count("step", state["step"])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, self._first = self._first, 0
        for step, batch in enumerate(self.batches(self.epoch, first), start=first + 1):
            self.step = step
            yield batch

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The (images float32 (B, C, H, W), labels (B, …)) of an epoch, from its batch ``first`` on."""
        shape = self.images.shape[1:]
        plan = plan_epoch(
            self.order, epoch, self.labels, shape, self.augmentation, self.normalise, self.device, self.mixing
        )
        indices = plan.indices.to(self.device).split(self.order.batch_size)
        began, net_epoch = (self.net.step, self.net.epoch) if self.net is not None else (0, 0)
        for step in range(first, len(self)):
            images, labels = plan.finish(step, self.images.index_select(0, indices[step]))
            if self.net is not None:
                mode = self.net.mode_at(began + (step - first) // self.accumulation, net_epoch)
                images = images if mode is Mode.FULL else self.net.ladder.rung(mode).downsample(images)
            yield images, labels


def _check(
    images: Tensor, labels: Tensor, augmentation: Augmentation, mean: Sequence[float], std: Sequence[float]
) -> None:
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise wrong_type(name, value, "a tensor")
    if images.dtype != torch.uint8:
        raise TypeError(f"images have dtype {images.dtype}; give the bytes as they were decoded, torch.uint8")
    if images.dim() != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}; give (N, C, H, W)")
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images have {len(labels)} labels; give one each")
    if labels.dim() > 2 and augmentation != UNCHANGED:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, and would not be cropped and mirrored with their images; leave "
            "out augmentation, and change both in the loop"
        )
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, images.shape[1]):
            raise ValueError(f"{name} has {len(values)} values for {images.shape[1]} channels; give one a channel")
