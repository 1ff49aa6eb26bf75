"""Records and replays work on a device: CUDA graphs that share one memory pool."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from passes.torch_internals import end_allocation_to

Result = TypeVar("Result")
_SYNC = "called a synchronizing CUDA operation"
_EMPTY = "CUDA Graph is empty"
_PROTOTYPE = "Synchronization debug mode is a prototype"


class Graphs(Protocol):
    """Records what a function computes on a device, and replays it over the same memory."""

    def rehearse(self, run: Callable[[], Result]) -> tuple[Result, list[str]]:
        """Run a function under the conditions of a recording, with real results.

        Returns its result, and where it waited for the device (``file:line``), which a recording can't do.
        """
        ...

    def capture(
        self, run: Callable[[], Result], generators: Iterable[torch.Generator]
    ) -> tuple[Result, Callable[[], None]]:
        """Record a function without any effect on existing tensors.

        ``generators``: generators of the device, besides its default one, that draw anew at each replay. Returns the
        function's result, tensors that each replay fills, and the replay.
        """
        ...

    def capture_two(
        self,
        first: Callable[[], Result],
        between: Callable[[Result], object],
        second: Callable[[Result], object],
        generators: Iterable[torch.Generator],
    ) -> tuple[Result, Callable[[], None], Callable[[], None]]:
        """Record two functions, the second of which takes the first one's result; ``between`` runs unrecorded.

        Returns the result, tensors that each replay of the first fills, and both replays.
        """
        ...

    def forget(self) -> None:
        """None of the captured graphs will be replayed again."""
        ...


class CudaGraphs:
    """CUDA graphs with one memory pool: no two of them run at a time, and none reads another's results.

    Source: torch's notes on CUDA semantics, *Whole-network capture* and *Graph memory management*.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, run: Callable[[], Result]) -> tuple[Result, list[str]]:
        """Run on the capture stream, so that its workspaces and kernels are initialised."""
        before = torch.cuda.get_sync_debug_mode()
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with warnings.catch_warnings(record=True) as caught, torch.cuda.stream(self._stream):
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = run()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        current.wait_stream(self._stream)
        waits = [each for each in caught if _SYNC in str(each.message)]
        _warn_again(each for each in caught if each not in waits and _PROTOTYPE not in str(each.message))
        return result, [f"{each.filename}:{each.lineno}" for each in waits]

    def capture(
        self, run: Callable[[], Result], generators: Iterable[torch.Generator]
    ) -> tuple[Result, Callable[[], None]]:
        """Raises what ``run`` raises, or ``RuntimeError`` if the device can't record it or has nothing to record."""
        graph: Any = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        current = torch.cuda.current_stream(self._device)
        with warnings.catch_warnings(record=True) as caught, torch.cuda.device(self._device):
            warnings.simplefilter("always")
            try:
                # Other threads (a loader that pins memory) may continue meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    result = run()
            except Exception:
                torch.cuda.set_stream(current)  # torch leaves its capture stream as the current one
                self._recover(generators)
                raise
        if any(_EMPTY in str(each.message) for each in caught):
            raise RuntimeError("nothing was recorded: the step runs on another device or stream")
        _warn_again(caught)
        return result, partial(self._replay, graph)

    def capture_two(
        self,
        first: Callable[[], Result],
        between: Callable[[Result], object],
        second: Callable[[Result], object],
        generators: Iterable[torch.Generator],
    ) -> tuple[Result, Callable[[], None], Callable[[], None]]:
        """Two graphs in the pool: what the first leaves for the second is kept until that is recorded."""
        generators = list(generators)
        result, play_first = self.capture(first, generators)
        between(result)
        _, play_second = self.capture(lambda: second(result), generators)
        return result, play_first, play_second

    def _recover(self, generators: Iterable[torch.Generator]) -> None:
        """Undo what a failed recording leaves: torch still treats it as running, and draws no numbers outside."""
        with contextlib.suppress(RuntimeError):  # if the capture itself ended properly
            end_allocation_to(self._pool)
        self._pool = torch.cuda.graph_pool_handle()
        graph: Any = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            torch.zeros((), device=self._device)

    def forget(self) -> None:
        """No captured graph is replayed again. Its memory stays while it is used; new graphs use another pool."""
        self._pool = torch.cuda.graph_pool_handle()

    def _replay(self, graph: Any) -> None:
        with torch.cuda.device(self._device):
            graph.replay()


def _warn_again(caught: Iterable[warnings.WarningMessage]) -> None:
    for each in caught:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def graphs_for(device: torch.device) -> Graphs | None:
    """What captures steps on ``device``; ``None`` if it is not a CUDA device."""
    return CudaGraphs(device) if device.type == "cuda" else None
