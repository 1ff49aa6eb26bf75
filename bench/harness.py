"""Shared by every benchmark: paired and interleaved timing, a header with the environment, result files that resume."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

from lowmode_fx.utils.allocator import keep_freed_memory
from lowmode_fx.utils.atomic import write_text
from lowmode_fx.utils.devices import cpu_name, synchronize

RESULTS = Path(__file__).parent / "results"
Key = TypeVar("Key", bound=Hashable)


def header(script: str, **settings: Any) -> dict[str, Any]:
    """Hardware, versions, commit and settings: what a reader needs to trust or repeat the numbers."""
    return {
        "script": script,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "device": _device(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "torchvision", "timm")},
        "settings": settings,
    }


def timed(
    function: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one call: device events on a GPU, ``clock`` elsewhere."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 1000
    began = clock()
    function()
    return clock() - began


def paired_times(
    functions: Mapping[Key, Callable[[], object]],
    device: torch.device,
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, list[float]]:
    """Seconds of each function, one call of each per round, so that disturbances affect all alike.

    The first ``warmup`` calls of each include compilation and are dropped. The process keeps freed memory, as
    under ``lowmode-fx train``: otherwise a step on a CPU would wait for its pages. ``clock``: for a CPU;
    ``time.process_time`` if one thread computes and other programs use the machine.
    """
    keep_freed_memory()
    for function in functions.values():
        for _ in range(warmup):
            function()
    synchronize(device)
    times: dict[Key, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(timed(function, device, clock))
    return times


def paired_steps(
    functions: Mapping[Key, Callable[[], object]],
    device: torch.device,
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    inner: int | None = None,
) -> dict[Key, list[float]]:
    """Seconds of one training step, by ``paired_times``; on a GPU ten at once, so that the host runs ahead.

    ``inner``: number of steps that are timed at once.
    """
    count = inner or (10 if device.type == "cuda" else 1)
    repeated = {name: partial(_repeat, function, count) for name, function in functions.items()}
    times = paired_times(repeated, device, rounds, warmup, clock)
    return {name: [seconds / count for seconds in values] for name, values in times.items()}


def _repeat(function: Callable[[], object], times: int) -> None:
    for _ in range(times):
        function()


def summary(values: list[float]) -> dict[str, float]:
    """Median and quartiles, with n."""
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median": quartiles[1], "q1": quartiles[0], "q3": quartiles[2], "n": len(values)}


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean; ``nan`` for a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def paired_ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Summary of the ratios round by round."""
    return summary([above / below for above, below in zip(numerator, denominator, strict=True)])


def save(path: Path, head: dict[str, Any], rows: Mapping[str, Any]) -> None:
    """Write a result file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"header": head, "rows": rows}, indent=1) + "\n")


def load_rows(path: Path, resume: bool) -> dict[str, Any]:
    """Rows of an earlier run to continue, if any."""
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if resume and path.exists() else {}
    return rows


def _commit() -> str:
    command, here = ["git", "describe", "--always", "--dirty"], Path(__file__).parent
    try:
        run = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
    except OSError:  # a machine without git
        return "unknown"
    return run.stdout.strip() or "unknown"


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
