"""A step's view of its network: a ladder's modes and steps, or a plain module with one mode."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.model import LowModeModel
from passes.torch_internals import makes_cuda_graphs

#: Modes of ``torch.compile`` that make CUDA graphs themselves.
_CAPTURING_MODES = ("reduce-overhead", "max-autotune")
#: What to do about them.
OWN_GRAPHS = "compile without mode='reduce-overhead' or 'max-autotune', and without options={'triton.cudagraphs': True}"


class SteppedNet(Protocol):
    """Gives the mode of each step, and counts steps that ran without Python."""

    def begin_step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mode:
        """The mode of the next forward."""
        ...

    def in_mode(self, mode: Mode) -> AbstractContextManager[None]:
        """Inside, the network runs in ``mode``."""
        ...

    def attach(self, optimizer: Any) -> None:
        """``optimizer`` steps on the weights."""
        ...

    def count_step(self, optimizer: Any) -> None:
        """``optimizer`` has stepped, in a replay or ``uncounted``."""
        ...

    def rate_factor(self) -> float:
        """What the learning rate of the step that has begun is multiplied by."""
        ...

    def rates_written(self) -> AbstractContextManager[None]:
        """Inside, an optimizer steps with rates that are multiplied already."""
        ...

    def uncounted(self) -> AbstractContextManager[None]:
        """Inside, an optimizer steps uncounted; ``count_step`` follows."""
        ...

    def settle(self) -> None:
        """End the step: remove what it has left on the model."""
        ...

    def roots(self) -> dict[str, Any]:
        """The objects that its forwards read, by name."""
        ...


class LadderNet:
    """A ``LowModeModel``."""

    def __init__(self, net: LowModeModel) -> None:
        self._net = net
        self.begin_step = net.begin_step
        self.in_mode = net.in_mode
        self.attach = net.attach

    def count_step(self, optimizer: Any) -> None:
        self._net._position.counter.count_own_step(optimizer)

    def rate_factor(self) -> float:
        return self._net._due_rate_factor()

    def rates_written(self) -> AbstractContextManager[None]:
        rates = self._net._rates
        return nullcontext() if rates is None else rates.suspended()

    def uncounted(self) -> AbstractContextManager[None]:
        return self._net._position.counter.paused()

    def settle(self) -> None:
        self._net._runner.settle()

    def roots(self) -> dict[str, Any]:
        hooks = {name: value for name, value in vars(self._net).items() if name.endswith("_hooks")}
        return {"model": self._net.ladder.model, "hooks": hooks, "low_weight": self._net._low_weights}


class PlainNet:
    """Any other module: every step is a full step."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def begin_step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mode:
        return Mode.FULL

    def in_mode(self, mode: Mode) -> AbstractContextManager[None]:
        return nullcontext()

    def attach(self, optimizer: Any) -> None:
        pass

    def count_step(self, optimizer: Any) -> None:
        pass

    def rate_factor(self) -> float:
        return 1.0

    def rates_written(self) -> AbstractContextManager[None]:
        return nullcontext()

    def uncounted(self) -> AbstractContextManager[None]:
        return nullcontext()

    def settle(self) -> None:
        pass

    def roots(self) -> dict[str, Any]:
        return {"model": self._module}


def find_net(module: nn.Module) -> tuple[SteppedNet, str | None]:
    """The view of ``module`` for a step, and the reason why its steps can't be captured, if any.

    A ``LowModeModel`` is found behind ``DistributedDataParallel`` and ``torch.compile``.
    """
    inner: Any = module
    while not isinstance(inner, LowModeModel):
        within = getattr(inner, "_orig_mod", None)
        if isinstance(inner, DistributedDataParallel):
            within = inner.module
        if within is None:
            break
        inner = within
    cause = "torch.compile makes CUDA graphs of the model itself; " + OWN_GRAPHS if has_own_graphs(module) else None
    if isinstance(module, DistributedDataParallel | FSDPModule):
        cause = f"{type(module).__name__} exchanges gradients between processes"
    if isinstance(inner, LowModeModel):
        return LadderNet(inner), cause or _own_graphs(inner)
    if any(isinstance(each, LowModeModel) for each in module.modules()):
        cause = "a LowModeModel inside another module chooses its own modes"
    return PlainNet(inner), cause


def has_own_graphs(part: Any) -> bool:
    """Whether compiled code in a module, or a compiled function, makes CUDA graphs, which another can't hold."""
    return any(map(makes_cuda_graphs, part.modules() if isinstance(part, nn.Module) else (part,)))


def _own_graphs(net: LowModeModel) -> str | None:
    """Why compiled forwards can't be captured: these options of ``torch.compile`` make CUDA graphs already."""
    options = net._compile_options or {}
    if str(options.get("mode")) in _CAPTURING_MODES or (options.get("options") or {}).get("triton.cudagraphs"):
        told = repr(options.get("mode") or "triton.cudagraphs")
        return f"torch.compile captures forward and backward itself ({told}); remove that from compile_options"
    return None
