"""What goes on in a training step: derivatives in either mode, autocast, gradient scalers, pools of CUDA graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def in_backward_pass() -> bool:
    """Whether a backward pass on this thread runs the caller."""
    from torch._C import _current_graph_task_id

    return int(_current_graph_task_id()) != -1


def in_forward_mode() -> bool:
    """Whether derivatives are computed in forward mode here, as by ``torch.func.jvp``."""
    from torch.autograd.forward_ad import _current_level

    return int(_current_level) >= 0


def autocast_depth() -> int:
    """How many ``torch.autocast`` blocks, on or off, are active here; it also works below autocast's own dispatch."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def found_infinite(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Whether ``scaler`` found infinite gradients in the step of ``optimizer``, before its ``update``.

    A tensor on the device, above 0 if so; ``None`` if the scaler is disabled. Reading it waits for the device.
    """
    if not scaler.is_enabled():
        return None
    found = list(scaler._found_inf_per_device(optimizer).values())
    return found[0] if len(found) == 1 else torch.stack([each.to(found[0].device) for each in found]).sum()


def end_allocation_to(pool: Any) -> None:
    """Stop the current CUDA device from allocating in a pool of CUDA graphs, as a capture does at its end.

    Raises:
        RuntimeError: The device does not allocate in this pool.
    """
    torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
