"""Learning rates on the device, for captured optimizers, whatever a scheduler writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop, Rprop
from torch.optim import optimizer as all_optimizers

from lowmode_fx.runtime import optimizer_hooks

#: Optimizers that keep all state on the device, by the options for it. Others may keep some in Python, such as the
#: count of steps of timm's LAMB, which a recording would repeat.
_OPTIONS: dict[type, tuple[str, ...]] = {
    SGD: ("fused",),
    Adam: ("fused", "capturable"),
    AdamW: ("fused", "capturable"),
    Adagrad: ("fused",) if hasattr(torch.ops.aten._fused_adagrad_, "tensor_lr") else (),
    **dict.fromkeys((NAdam, RAdam, Adamax, ASGD, Adadelta, Rprop, RMSprop), ("capturable",)),
}


def option_for_capture(kind: type) -> str | None:
    """The option with which an optimizer of this class is made so that its step can be captured, if there is one."""
    return next(iter(_OPTIONS.get(kind, ())), None)


def why_not_captured(optimizer: Any) -> str | None:
    """Why an optimizer's step can't be captured, and what to do about it; ``None`` if it can."""
    kind = type(optimizer)
    options = _OPTIONS.get(kind, ())
    if not options:
        return f"{kind.__name__} may count steps in Python"
    for group in optimizer.param_groups:
        if not any(group.get(option) for option in options):
            option = " or ".join(f"{each}=True" for each in options)
            return f"{kind.__name__} reads its learning rate in Python; make it with {option}"
    if any(_is_on_host(state.get("step"), parameter) for parameter, state in optimizer.state.items()):
        return f"{kind.__name__} has its counts of steps on the host; make it after moving the model to the device"
    return why_hooked(optimizer)


def _is_on_host(step: Any, parameter: Tensor) -> bool:
    return isinstance(step, Tensor) and step.device != parameter.device


def why_hooked(optimizer: Any) -> str | None:
    """Why the step of an optimizer with hooks can't be captured; ``None`` if it has none."""
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return f"step hooks on {type(optimizer).__name__} run in Python"
    for hooks in (all_optimizers._global_optimizer_pre_hooks, all_optimizers._global_optimizer_post_hooks):
        if any(getattr(hook, "__module__", "") != optimizer_hooks.__name__ for hook in hooks.values()):
            return "step hooks on all optimizers run in Python"
    return None


class DeviceRates:
    """A tensor for each parameter group's learning rate; the groups keep the values that users write."""

    def __init__(self, optimizer: Any, device: torch.device) -> None:
        self._optimizer = optimizer
        self._device = device
        self._rates: list[Tensor] = []
        self._written: list[Any] = []

    def write(self, factor: float = 1.0) -> None:
        """Update the tensors whose learning rate, times ``factor``, has changed."""
        groups = self._optimizer.param_groups
        while len(self._rates) < len(groups):
            # float32, as torch's fused kernels require.
            self._rates.append(torch.zeros((), dtype=torch.float32, device=self._device))
            self._written.append(None)
        for place, (group, rate) in enumerate(zip(groups, self._rates, strict=False)):
            now = group["lr"]
            if isinstance(now, Tensor):  # a scheduler writes to it
                rate.copy_(now if factor == 1 else now * factor, non_blocking=True)
            elif now * factor != self._written[place]:
                rate.fill_(now * factor)
                self._written[place] = now * factor

    @contextlib.contextmanager
    def in_place(self, capturable: bool = False) -> Iterator[None]:
        """Inside, the optimizer reads the tensors; ``capturable``: and can be captured."""
        groups = self._optimizer.param_groups
        users = [{name: group[name] for name in ("lr", "capturable") if name in group} for group in groups]
        for group, rate in zip(groups, self._rates, strict=False):
            group["lr"] = rate
            if capturable and "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, values in zip(groups, users, strict=True):
                group.update(values)
