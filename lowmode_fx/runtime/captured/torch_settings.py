"""Global settings of torch that decide which kernels a step runs: a recording keeps those that it was made with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.backends import cuda, cudnn


def _allowed(backend: Any, name: str) -> Any:
    """A setting of precision; ``None`` where torch refuses to read it, as an old name beside a new one."""
    try:
        return getattr(backend, name)
    except RuntimeError:
        return None


SETTINGS: tuple[Callable[[], Any], ...] = (
    torch.are_deterministic_algorithms_enabled,
    torch.get_default_dtype,
    torch.is_grad_enabled,
    *(
        partial(read, kind)
        for kind in ("cuda", "cpu")
        for read in (torch.is_autocast_enabled, torch.get_autocast_dtype)
    ),
    *(partial(getattr, cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
    partial(_allowed, cudnn, "allow_tf32"),
    *(
        partial(_allowed, cuda.matmul, f"allow_{name}")
        for name in ("tf32", "fp16_reduced_precision_reduction", "bf16_reduced_precision_reduction")
    ),
    cuda.flash_sdp_enabled,
    cuda.mem_efficient_sdp_enabled,
    cuda.math_sdp_enabled,
    cuda.cudnn_sdp_enabled,
)
