"""What records work and replays it: CUDA graphs that share one pool of memory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

Result = TypeVar("Result")
_SYNC = "called a synchronizing CUDA operation"
_EMPTY = "CUDA Graph is empty"
_PROTOTYPE = "Synchronization debug mode is a prototype"


class Graphs(Protocol):
    """Records what a function asks a device to compute, and replays it over the same memory."""

    def rehearse(self, run: Callable[[], Result]) -> tuple[Result, list[str]]:
        """Run a function as it would be recorded, its results being real.

        Returns what it returned, and where it waited for the device (``file:line``), which no recording can.
        """
        ...

    def capture(
        self, run: Callable[[], Result], generators: Iterable[torch.Generator]
    ) -> tuple[Result, Callable[[], None]]:
        """Record a function without any effect on a tensor that was there before.

        generators: those of the device, beside its own, that draw anew at each replay. Returns what the function
        returned, tensors that each replay fills, and the replay.
        """
        ...

    def forget(self) -> None:
        """Of what was captured nothing is replayed again."""
        ...


class CudaGraphs:
    """One pool of memory for all graphs: no two of them run at a time, and none reads what another one left.

    Source: torch's notes on CUDA semantics, *Whole-network capture* and *Graph memory management*.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, run: Callable[[], Result]) -> tuple[Result, list[str]]:
        """Run on the stream that captures, which gives its workspaces and kernels their first use."""
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
        """Raises what ``run`` raises, or ``RuntimeError`` where the device can't record it or has nothing to record."""
        graph: Any = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        current = torch.cuda.current_stream(self._device)
        with warnings.catch_warnings(record=True) as caught, torch.cuda.device(self._device):
            warnings.simplefilter("always")
            try:
                # Other threads (a loader that pins memory) may go on meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    result = run()
            except Exception:
                torch.cuda.set_stream(current)  # torch leaves its own stream behind
                self._recover(generators)
                raise
        if any(_EMPTY in str(each.message) for each in caught):
            raise RuntimeError("nothing was recorded: the step computes on another device or stream")
        _warn_again(caught)
        return result, partial(self._replay, graph)

    def _recover(self, generators: Iterable[torch.Generator]) -> None:
        """Undo what a recording leaves that failed: torch still takes it for underway, and draws no number outside."""
        with contextlib.suppress(RuntimeError):  # where it ended as it should, and a result of ours was wrong
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
        self._pool = torch.cuda.graph_pool_handle()
        graph: Any = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            torch.zeros((), device=self._device)

    def forget(self) -> None:
        """Nothing that was captured is replayed again; what still lies in its memory stays, new graphs get another."""
        self._pool = torch.cuda.graph_pool_handle()

    def _replay(self, graph: Any) -> None:
        with torch.cuda.device(self._device):
            graph.replay()


def _warn_again(caught: Iterable[warnings.WarningMessage]) -> None:
    for each in caught:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def graphs_for(device: torch.device) -> Graphs | None:
    """What captures steps on ``device``: nothing where it isn't a CUDA device."""
    return CudaGraphs(device) if device.type == "cuda" else None
