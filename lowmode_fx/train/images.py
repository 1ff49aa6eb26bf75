"""Where the images of a split live. The loop asks for positions and gets uint8 pixels, from memory or from files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from lowmode_fx.train.names import Part
from passes.errors import OptionError
from passes.wording import any_of

#: The side in pixels of a set's images, and that at which training images are held; ``None``: as stored.
Sizes = tuple[int | None, int | None]


def square(sizes: Sizes, part: str) -> tuple[int, int] | None:
    """(H, W) at which a part of a set, ``"train"`` or another, is held."""
    side = sizes[part == "train"]
    return None if side is None else (side, side)


class ImageSource(Protocol):
    """A fixed sequence of labelled uint8 images of one shape (C, H, W)."""

    labels: torch.Tensor

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> ImageSource: ...

    def read(self, index: int) -> tuple[torch.Tensor, int]:
        """The uint8 image (C, H, W) at a place, and its class. Raises ``ValueError`` for one that can't be had."""
        ...

    def fetch(self, batches: Iterable[torch.Tensor], workers: int = 0, pin: bool = False) -> Iterator[torch.Tensor]:
        """For each int64 tensor of positions (N,), in order, the uint8 images (N, C, H, W).

        pin: where worker processes read them, into pinned memory, by a thread.
        """
        ...


class MemoryImages:
    """All images in one uint8 tensor (N, C, H, W), labels int64 (N,)."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        assert images.dtype == torch.uint8 and images.dim() == 4 and len(images) == len(labels)
        self.images = images
        self.labels = labels

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> MemoryImages:
        return MemoryImages(self.images.to(device), self.labels.to(device))

    @property
    def nbytes(self) -> int:
        """Bytes that the images take."""
        return self.images.nbytes

    def read(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.labels[index])

    def fetch(self, batches: Iterable[torch.Tensor], workers: int = 0, pin: bool = False) -> Iterator[torch.Tensor]:
        for indices in batches:
            yield self.images.index_select(0, indices.to(self.images.device))


@dataclass(frozen=True)
class HeldParts:
    """Parts of a set held in memory, those that were asked for. ``notes``: what a user should know, a line each."""

    parts: Mapping[Part, MemoryImages]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def check_part(only: Part | None, there: Collection[str], spec: str) -> None:
    """Raises ``OptionError`` for a part that the set ``spec`` doesn't have. only: ``None`` for all that are there."""
    if only is not None and only not in there:
        raise OptionError("only", only, f"finds no such part in {spec}", f"give {any_of([*there])}")
