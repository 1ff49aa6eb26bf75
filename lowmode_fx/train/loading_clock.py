"""How long a run waits for its images."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
_KEPT = 256  # events that wait to be read, before the first of them are looked at


class LoadingClock:
    """Seconds that the device spends on getting batches, or waits for them: the rest of a step is the network's.

    On a GPU it is what lies between two events around each batch in the stream of the work: its own share of making a
    batch, and the time in which it has nothing to do because the host or the way to the device is slower. On a CPU it
    is the wall clock's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds = 0.0
        self._events: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the time that each takes to come is added up."""
        waiting = iter(batches)
        take = self._take_on_gpu if self.device.type == "cuda" else self._take
        while (batch := take(waiting)) is not None:
            yield batch[0]

    def seconds(self) -> float:
        """The seconds so far, of batches that the device is done with; once it is synchronised, of all."""
        while self._events and self._events[0][1].query():
            began, ended = self._events.popleft()
            self._seconds += began.elapsed_time(ended) / 1000
        return self._seconds

    def restart(self, seconds: float = 0.0) -> None:
        """Count from here, on top of ``seconds``."""
        self._events.clear()
        self._seconds = seconds

    def _take(self, waiting: Iterator[Batch]) -> tuple[Batch] | None:
        began = time.perf_counter()
        batch = _next(waiting)
        self._seconds += time.perf_counter() - began
        return batch

    def _take_on_gpu(self, waiting: Iterator[Batch]) -> tuple[Batch] | None:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(self.device)
        began.record(stream)
        batch = _next(waiting)
        ended.record(stream)
        self._events.append((began, ended))
        if len(self._events) > _KEPT:
            self.seconds()
        return batch


def _next(waiting: Iterator[Batch]) -> tuple[Batch] | None:
    """The next one in a tuple; ``None`` after the last."""
    for batch in waiting:
        return (batch,)
    return None
