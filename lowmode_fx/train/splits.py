"""``DataSplits``: the parts of a data set, however they were loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lowmode_fx.loading.augmentation import UNCHANGED, Augmentation
from lowmode_fx.train.images import ImageSource


@dataclass(frozen=True)
class DataSplits:
    """The parts of a data set: uint8 images ``(C, H, W)``.

    ``mean`` and ``std``: per channel, of images in [0, 1]. ``test``: looked at once, after the last epoch. ``notes``:
    what a user should know of the data, a line each. ``transform``: what changes a training image beside
    ``augmentation``, uint8 (C, H, W) to ``image_shape``, with draws of torch's.
    """

    name: str
    train: ImageSource
    val: ImageSource
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = UNCHANGED
    test: ImageSource | None = None
    notes: tuple[str, ...] = ()
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image that a network sees."""
        return self.val.shape

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device) -> DataSplits:
        """Move images held in memory to ``device``; files stay where they are, and ``test``, looked at once."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))


def image_augmentation(side: int) -> Augmentation:
    """The usual one for natural images: 4 pixels of padding at 32×32 (an eighth of the side), and a horizontal flip."""
    return Augmentation(shift=max(1, side // 8), flip=True)
