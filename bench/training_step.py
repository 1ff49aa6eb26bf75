"""One training step of a classifier, and the time of a net's steps in both modes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from bench.harness import paired_steps
from lowmode_fx import LowModeModel


def training_step(
    forward: Callable[[Tensor], Tensor],
    next_batch: Callable[[], tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    autocast: torch.dtype | None = None,
    clip: float | None = None,
) -> None:
    """Batch, forward, cross entropy, backward, optimizer; under ``autocast``, with gradients clipped, if any."""
    images, labels = next_batch()
    with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
        loss = F.cross_entropy(forward(images), labels)
    loss.backward()
    if clip is not None:
        clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group["params"]], clip)
    optimizer.step()
    optimizer.zero_grad()


def mode_times(
    net: LowModeModel,
    next_batch: Callable[[], tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    rounds: int,
    autocast: torch.dtype | None = None,
) -> dict[str, list[float]]:
    """Seconds of a full and of a low step, paired and interleaved, by the name of the mode.

    On one core in CPU time, which the machine's load does not change.
    """
    device = next(net.parameters()).device
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    steps = {
        mode.value: partial(training_step, partial(net.run, mode), next_batch, optimizer, autocast)
        for mode in net.modes
    }
    return paired_steps(steps, device, rounds, clock=time.process_time if alone else time.perf_counter)
