"""CUDA graphs that measure how long the host takes to launch them; the rest of a step's call is the runner's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch

from lowmode_fx.runtime.captured.graphs import CudaGraphs

Result = TypeVar("Result")


class TimedGraphs(CudaGraphs):
    """``TrainStep``'s default graphs. ``launches``: number of launches; ``seconds``: of the host in all of them."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.seconds = 0.0
        self.launches = 0

    def capture(
        self, run: Callable[[], Result], generators: Iterable[torch.Generator]
    ) -> tuple[Result, Callable[[], None]]:
        result, replay = super().capture(run, generators)
        return result, self._timed(replay)

    def _timed(self, replay: Callable[[], Any]) -> Callable[[], None]:
        def timed() -> None:
            began = time.perf_counter()
            replay()
            self.seconds += time.perf_counter() - began
            self.launches += 1

        return timed
