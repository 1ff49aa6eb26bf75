"""cuDNN's choice of algorithms by trial, for the time of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn

from passes.errors import OptionError
from passes.spelling import setting


@contextmanager
def benchmarking(wanted: bool, device: torch.device, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, cuDNN times its algorithms at each new shape and keeps the fastest, if ``wanted``; afterwards as before.

    On another device than a GPU of CUDA's a note says that it does nothing. Raises ``OptionError`` where deterministic
    algorithms are asked for: what is fastest may differ from run to run, and with it the bits.
    """
    if not wanted:
        yield
        return
    if device.type != "cuda":
        say(f"note: {setting('cudnn_benchmark', True)} does nothing here: the run is on {device}")
        yield
        return
    if torch.are_deterministic_algorithms_enabled() or cudnn.deterministic:
        problem = "may choose other algorithms in each run, and deterministic ones are asked for"
        raise OptionError("cudnn_benchmark", True, problem, "leave out one of the two")
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        yield
    finally:
        cudnn.benchmark = before
