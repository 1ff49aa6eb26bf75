"""Images read one by one in this process, or by others beside it: the same pixels in the same order."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lowmode_fx.train.decode import quiet_large_images
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.utils.progress import track
from passes.spelling import current_spelling, setting, spelled
from passes.wording import first_line, sides

#: ``read(index)``: the uint8 image (C, H, W) there, and its class. Raises ``ValueError`` for one that can't be had.
Read = Callable[[int], tuple[Tensor, int]]
#: Sets of fewer images are read sooner than other processes are there to help.
_FEW = 200
#: What processes hand over at once lies in shared memory, of which a container may have 64 MiB.
_MOST_WORKERS, _MOST_AT_ONCE, _MOST_BYTES = 8, 256, 2 * 2**20


def read_all(read: Read, count: int, what: str, shape: tuple[int, ...], workers: int | None = None) -> MemoryImages:
    """All ``count`` images of a set, each of ``shape`` (C, H, W), with a progress bar labelled ``what``.

    workers: processes that read; ``None``: as many as there are cores, for sets large enough to gain from it.

    Raises ``ValueError`` as ``read`` does, for the first image that it refuses.
    """
    if workers is None:
        workers = min(_MOST_WORKERS, os.cpu_count() or 1) if count >= _FEW else 0
    one = math.prod(shape)
    at_once = min(_MOST_AT_ONCE, count // (4 * max(workers, 1)), _MOST_BYTES // one)
    images, labels = torch.empty((count, *shape), dtype=torch.uint8), torch.empty(count, dtype=torch.int64)
    done = 0
    for found, classes in track(
        read_batches(read, torch.arange(count).split(max(at_once, 1)), workers),
        total=count,
        what=what,
        size=lambda batch: len(batch[1]),
    ):
        images[done : done + len(found)], labels[done : done + len(found)] = found, classes
        done += len(found)
    return MemoryImages(images, labels)


def read_held(read: Read, count: int, what: str, most: int, workers: int | None = None) -> MemoryImages:
    """``read_all`` of a set whose first image's shape is that of all. what: its images, in a user's words.

    most: bytes that they may take. Raises ``ValueError`` where they take more, and for one of another shape.
    """
    with quiet_large_images():
        rows = _OneShape(read, what)
    if rows.shape.numel() * count > most:
        raise ValueError(
            f"{what} take {rows.shape.numel() * count / 2**30:.0f} GiB; give a smaller {setting('image_size')}"
        )
    return read_all(rows.read, count, f"decoding {what}", rows.shape, workers)


class _OneShape:
    """``read`` for images of one shape, that of the first one, which is read once."""

    def __init__(self, read: Read, what: str) -> None:
        self._read, self.what = read, what
        self._first = read(0)
        self.shape = self._first[0].shape

    def read(self, index: int) -> tuple[Tensor, int]:
        image, label = self._first if index == 0 else self._read(index)
        if image.shape != self.shape:
            was, now = sides(self.shape[1:]), sides(image.shape[1:])
            raise ValueError(f"number {index} of {self.what} is {now}, others are {was}; give {setting('image_size')}")
        return image, label


def read_batches(
    read: Read, batches: Iterable[Tensor], workers: int = 0, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each int64 tensor of positions (N,), in order, the images uint8 (N, C, H, W) and their classes (N,).

    workers: processes that read, or this one. pin: what they read goes into pinned memory, by a thread.
    """
    # The loader gets a generator of its own: by default it draws a seed from torch's global one at every epoch.
    loader = DataLoader(
        _Batches(read, list(batches)),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_leave_interrupts_to_the_parent,
        generator=torch.Generator(),
        pin_memory=pin,
    )
    waiting = iter(loader)
    while True:
        try:
            images, labels, problem = next(waiting)
        except StopIteration:
            return
        except RuntimeError as error:
            if not workers:
                raise
            hint = f"give {setting('workers', 0)}, or fewer of them"
            raise ValueError(f"a process that reads images has ended: {first_line(error)}; {hint}") from error
        if problem:
            raise ValueError(problem)
        yield images, labels


class _Batches(Dataset[tuple[Tensor, Tensor, str]]):
    """Batch number → (images, labels, problem): a worker's exception would come as a page of traceback."""

    def __init__(self, read: Read, batches: list[Tensor]) -> None:
        self.read, self.batches, self.spelling = read, batches, current_spelling()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, str]:
        if number >= len(self.batches):
            raise IndexError(number)
        try:
            with spelled(self.spelling), quiet_large_images():
                images, labels = zip(*map(self.read, self.batches[number].tolist()), strict=True)
        except ValueError as error:
            return torch.empty(0), torch.empty(0), str(error)
        return torch.stack(images), torch.tensor(labels), ""


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
