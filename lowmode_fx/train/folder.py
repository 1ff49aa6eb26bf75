"""Images in files, decoded once by a pool of threads or on the fly by loader workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.data import DataLoader, Dataset

from lowmode_fx.train.decode import decode, quiet_large_images
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.layout import FolderPart
from lowmode_fx.utils.progress import track
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

    def read(self, index: int) -> torch.Tensor:
        path = self.part.paths[index]
        image = decode(path, self.size, self.shape[0])
        if tuple(image.shape) != self.shape:
            size = sides(image.shape[1:])
            raise ValueError(f"{str(path)!r} is {size}, other images are {self.size_text}; give --image-size")
        return image

    def decode_all(self, what: str) -> MemoryImages:
        """Decode everything once, with a pool of threads: Pillow lets go of the interpreter lock while it decodes."""
        images = torch.empty((len(self), *self.shape), dtype=torch.uint8)

        def place(index: int) -> None:
            images[index] = self.read(index)

        pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
        try:
            with quiet_large_images():
                for _ in track(pool.map(place, range(len(self)), chunksize=64), total=len(self), what=what):
                    pass
        finally:
            pool.shutdown(cancel_futures=True)  # one corrupt image ends it at once, not after all the others
        return MemoryImages(images, self.labels)

    def fetch(self, batches: Iterable[torch.Tensor], workers: int = 0, pin: bool = False) -> Iterator[torch.Tensor]:
        # The loader gets a generator of its own: by default it draws a seed from torch's global one at every epoch.
        loader = DataLoader(
            _Batches(self, list(batches)),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=_leave_interrupts_to_the_parent,
            generator=torch.Generator(),
            pin_memory=pin,
        )
        for images, problem in loader:
            if problem:
                raise ValueError(problem)
            yield images


class _Batches(Dataset[tuple[torch.Tensor, str]]):
    """Batch number → (images, problem): a worker's exception would arrive as a page of traceback in one string."""

    def __init__(self, source: FolderImages, batches: list[torch.Tensor]) -> None:
        self.source = source
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, str]:
        if number >= len(self.batches):
            raise IndexError(number)
        try:
            with quiet_large_images():
                return torch.stack([self.source.read(index) for index in self.batches[number].tolist()]), ""
        except ValueError as error:
            return torch.empty(0), str(error)


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
