"""Copies that are under way while the device still works at the batch before: for sets that it can't hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sized
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from lowmode_fx.utils.validation import as_count
from passes.trees import tree_leaves, tree_map

__all__ = ["PrefetchLoader"]


class PrefetchLoader:
    """The batches of a loader on ``device``, the next ones already being copied there.

    To a GPU they are copied from pinned memory on a stream of their own, beside the work on the batch before
    (``pin_memory=True`` of a ``DataLoader`` pins in a thread of its own; what isn't pinned is pinned here). On a CPU
    the loader's batches pass through; to another device they are moved one by one.

    loader: anything that gives batches: tensors, or tuples, mappings and dataclasses of them and other things.
    ahead: batches that are on their way beside the one that is given out.
    """

    def __init__(self, loader: Iterable[Any], device: torch.device | str, ahead: int = 2) -> None:
        self.loader, self.device, self.ahead = loader, torch.device(device), as_count("ahead", ahead, 1)

    def __len__(self) -> int:
        """Batches, where the loader knows their number."""
        if not isinstance(self.loader, Sized):
            raise TypeError(f"{type(self.loader).__name__} has no length")
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if self.device.type == "cpu":
            return iter(self.loader)
        if self.device.type == "cuda":
            return _ahead(self.loader, _CudaCopies(self.device), self.ahead)
        return (tree_map(partial(_moved, device=self.device), batch) for batch in self.loader)


class _Copies(Protocol):
    """How a batch gets to the device: a copy is started, and finished before the batch is used."""

    def start(self, batch: Any) -> Any: ...

    def finish(self, copy: Any) -> Any: ...


def _ahead(loader: Iterable[Any], copies: _Copies, ahead: int) -> Iterator[Any]:
    """The loader's batches in their order, ``ahead`` copies being started before one is finished."""
    started: deque[Any] = deque()
    for batch in loader:
        started.append(copies.start(batch))
        if len(started) > ahead:
            yield copies.finish(started.popleft())
    while started:
        yield copies.finish(started.popleft())


class _CudaCopies:
    """Copies on a stream of their own, which the stream of the work waits for: the host waits for neither."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def start(self, batch: Any) -> tuple[Any, torch.cuda.Event]:
        with torch.cuda.stream(self.stream):
            moved = tree_map(partial(_moved, device=self.device), batch)
            return moved, self.stream.record_event()

    def finish(self, copy: tuple[Any, torch.cuda.Event]) -> Any:
        batch, copied = copy
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor) and leaf.is_cuda:
                leaf.record_stream(current)  # its memory is the other stream's, and must not go back before it is read
        return batch


def _moved(leaf: Any, device: torch.device) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    if device.type == "cuda" and leaf.device.type == "cpu" and not leaf.is_pinned():
        leaf = leaf.pin_memory()
    return leaf.to(device, non_blocking=device.type == "cuda")
