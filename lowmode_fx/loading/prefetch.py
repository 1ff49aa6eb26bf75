"""Asynchronous copies to the device, while it works on the previous batch: for data sets that don't fit on it."""

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
    """The batches of a loader on ``device``; the next ones are copied in advance.

    To a GPU, batches are copied from pinned memory on a separate stream, in parallel with the work on the previous
    batch (``DataLoader(pin_memory=True)`` pins in a separate thread; batches that are not pinned are pinned here). On a
    CPU the loader's batches pass through; to another device they are moved one by one.

    Args:
        loader: Any iterable of batches: tensors, or tuples, mappings and dataclasses of tensors and other values.
        device: The device.
        ahead: Number of batches to copy in advance.

    Raises:
        ValueError: ``ahead`` is below 1.
    """

    def __init__(self, loader: Iterable[Any], device: torch.device | str, ahead: int = 2) -> None:
        self.loader, self.device, self.ahead = loader, torch.device(device), as_count("ahead", ahead, 1)

    def __len__(self) -> int:
        """Number of batches, if the loader knows it."""
        if not isinstance(self.loader, Sized):
            raise TypeError(f"loader {type(self.loader).__name__} has no length")
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
    """The loader's batches in order, with ``ahead`` copies started before one is finished."""
    started: deque[Any] = deque()
    for batch in loader:
        started.append(copies.start(batch))
        if len(started) > ahead:
            yield copies.finish(started.popleft())
    while started:
        yield copies.finish(started.popleft())


class _CudaCopies:
    """Copies on a separate stream, for which the stream of the work waits; the host waits for neither."""

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
                leaf.record_stream(
                    current
                )  # the memory belongs to the other stream, and must not be freed before it is read
        return batch


def _moved(leaf: Any, device: torch.device) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    if device.type == "cuda" and leaf.device.type == "cpu" and not leaf.is_pinned():
        leaf = leaf.pin_memory()
    return leaf.to(device, non_blocking=device.type == "cuda")
