"""Images in the files of a folder, decoded all at once or whenever they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from lowmode_fx.train.decode import decode, quiet_large_images
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.layout import FolderPart
from lowmode_fx.train.reading import read_all, read_batches
from passes.spelling import setting
from passes.wording import sides


class FolderImages:
    """Images that stay in their files and are decoded whenever they are asked for."""

    def __init__(self, part: FolderPart, size: tuple[int, int] | None, shape: tuple[int, int, int]) -> None:
        self.part = part
        self.size = size
        self.labels = torch.tensor(part.labels)
        self.shape = shape

    @classmethod
    def of(cls, part: FolderPart, size: tuple[int, int] | None, in_chans: int) -> FolderImages:
        """Without a ``size``, the first image gives it, and ``read`` demands it of all others."""
        with quiet_large_images():
            _, height, width = decode(part.paths[0], size, in_chans).shape
        return cls(part, size, (in_chans, height, width))

    @property
    def nbytes(self) -> int:
        """Bytes that the decoded images take."""
        channels, height, width = self.shape
        return len(self) * channels * height * width

    @property
    def size_text(self) -> str:
        return sides(self.shape[1:])

    def __len__(self) -> int:
        return len(self.part.paths)

    def to(self, device: torch.device) -> FolderImages:
        return self  # pixels follow batch by batch

    def read(self, index: int) -> tuple[torch.Tensor, int]:
        """Raises ``ValueError`` for an image that can't be decoded, or is of another size."""
        path = self.part.paths[index]
        image = decode(path, self.size, self.shape[0])
        if tuple(image.shape) != self.shape:
            size = sides(image.shape[1:])
            raise ValueError(
                f"{str(path)!r} is {size}, other images are {self.size_text}; give {setting('image_size')}"
            )
        return image, self.part.labels[index]

    def decode_all(self, what: str, workers: int | None = None) -> MemoryImages:
        """Decode everything once, as ``read_all`` does."""
        return read_all(self.read, len(self), what, self.shape, workers)

    def fetch(self, batches: Iterable[torch.Tensor], workers: int = 0, pin: bool = False) -> Iterator[torch.Tensor]:
        for images, _ in read_batches(self.read, batches, workers, pin):
            yield images
