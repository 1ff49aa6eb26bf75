"""How long parts of a run take on its device: getting images, and the steps of each mode."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch

Batch = TypeVar("Batch")
_KEPT = 256  # spans that wait to be read, before the first of them are looked at


class DeviceClock:
    """Seconds by name that the device spends between ``begin`` and ``end``: the sums of all spans of that name.

    On a GPU it is what lies between two events in the stream of the work, and nothing waits for them. On a CPU it is
    the wall clock's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds: dict[str, float] = {}
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    def begin(self) -> Any:
        """Where a span begins, for ``end``."""
        return self._event() if self.device.type == "cuda" else time.perf_counter()

    def end(self, name: str, began: Any) -> None:
        """A span of that name is over."""
        if self.device.type != "cuda":
            self._add(name, time.perf_counter() - began)
            return
        self._events.append((name, began, self._event()))
        if len(self._events) > _KEPT:
            self.seconds()

    def seconds(self) -> dict[str, float]:
        """Seconds by name so far, of spans that the device is done with; once it is synchronised, of all."""
        while self._events and self._events[0][2].query():
            name, began, ended = self._events.popleft()
            self._add(name, began.elapsed_time(ended) / 1000)
        return dict(self._seconds)

    def restart(self, seconds: Mapping[str, float] | None = None) -> None:
        """Count from here, on top of ``seconds``."""
        self._events.clear()
        self._seconds = dict(seconds or {})

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


class LoadingClock:
    """Seconds that the device spends on getting batches, or waits for them: the rest of a step is the network's.

    On a GPU it is its own share of making a batch, and the time in which it has nothing to do because the host or the
    way to the device is slower.
    """

    def __init__(self, device: torch.device) -> None:
        self._clock = DeviceClock(device)

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the time that each takes to come is added up."""
        waiting = iter(batches)
        while True:
            began = self._clock.begin()
            batch = _next(waiting)
            self._clock.end("images", began)
            if batch is None:
                return
            yield batch[0]

    def seconds(self) -> float:
        """The seconds so far, of batches that the device is done with; once it is synchronised, of all."""
        return self._clock.seconds().get("images", 0.0)

    def restart(self, seconds: float = 0.0) -> None:
        """Count from here, on top of ``seconds``."""
        self._clock.restart({"images": seconds})


def _next(waiting: Iterator[Batch]) -> tuple[Batch] | None:
    """The next one in a tuple; ``None`` after the last."""
    for batch in waiting:
        return (batch,)
    return None
