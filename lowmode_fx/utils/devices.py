"""What a clock and a generator have to know of devices."""

from __future__ import annotations

import torch


def synchronize(device: torch.device) -> None:
    """Wait for the device's queued work, so that a clock that is read next has seen all of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def gpus() -> list[int]:
    """Every GPU in use, for ``fork_rng``: ``torch.manual_seed`` reaches them all, whatever the model lies on."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
