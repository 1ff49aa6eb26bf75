"""The cost of building a pair: seconds, those of the trace alone and with a proof, and peak memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lowmode_fx.capture.capture import TraceError
from lowmode_fx.capture.frontends import FrontEndName, front_ends
from lowmode_fx.capture.inputs import as_call
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.pair import build_pair
from passes import PassError

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_build(pair: ModePair, example: Any) -> tuple[float, float, float]:
    """Seconds of the front end alone, seconds of ``build_pair``, and its peak memory in MB, all on a warm model.

    As in ``timeit``, garbage is not collected meanwhile. ``example``: the pair's example input.
    """
    front_end = _front_end(pair, example)
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        front_end()
        traced = time.perf_counter()
        with PeakMemory() as peak:
            build_pair(pair.model, example, pair.config)
        return traced - began, time.perf_counter() - traced, peak.megabytes
    finally:
        gc.enable()


def proven_pair(pair: ModePair, example: Any, front_end: FrontEndName) -> tuple[ModePair | None, str, float]:
    """Build the pair by a front end whose graphs are proven and run low steps, or return why there is none.

    Also returns the CPU seconds of the build, with its proofs.
    """
    began = time.process_time()
    try:
        proven, reason = build_pair(pair.model, example, pair.config, front_end=front_end), ""
    except (PassError, TraceError) as error:
        proven, reason = None, str(error)
    return proven, reason, time.process_time() - began


def _front_end(pair: ModePair, example: Any) -> Callable[[], object]:
    """The attempt that traced the pair's full graph: of several, the one with the same number of nodes."""
    args, kwargs = as_call(example)
    leaves = pair.inputs.flatten(pair.model, args, kwargs)
    (front_end,) = front_ends(pair.report.front_end)  # type: ignore[arg-type]
    attempts = list(front_end.attempts(pair.model, pair.inputs, leaves, pair.report.leaf_modules))
    for attempt in attempts[:-1]:
        with contextlib.suppress(Exception):
            if len(attempt().nodes) == len(pair.full.graph.nodes):
                return attempt
    return attempts[-1]


class PeakMemory:
    """``with PeakMemory() as peak: …``, then ``peak.megabytes``.

    If the kernel lets a process reset its high-water mark, the growth is exact; otherwise it is the growth of the
    process's mark, which earlier work may hide.
    """

    megabytes: float = 0.0

    def __enter__(self) -> PeakMemory:
        # Freed memory that the C library keeps would hide growth.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        try:
            _RESET.write_text("5")
            self._before = _kilobytes("VmRSS")
        except OSError:
            self._before = _high_water()
        return self

    def __exit__(self, *_: object) -> None:
        self.megabytes = max(0, _high_water() - self._before) / 1024


def _high_water() -> int:
    try:
        return _kilobytes("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _kilobytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])
