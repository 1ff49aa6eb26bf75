"""Devices: waiting for queued work before a clock is read, and the CPU's name for reports."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def synchronize(device: torch.device) -> None:
    """Wait for the device's queued work, so that a clock that is read next includes all of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def cpu_name() -> str:
    """The processor's model name on Linux; elsewhere what Python knows of it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
