"""The learning rate of a step whose batch has another size: scaled while an optimizer steps, and then put back."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

__all__ = ["ScaledRates"]


_ALIVE: weakref.WeakSet[ScaledRates] = weakref.WeakSet()
#: By model: the rates of the net that ran its last training forward.
_LATEST: weakref.WeakKeyDictionary[nn.Module, weakref.ref[ScaledRates]] = weakref.WeakKeyDictionary()


class ScaledRates:
    """Multiplies the learning rates of every optimizer that trains a net, for the time of its step.

    Between steps the parameter groups hold what users and schedulers write.
    """

    def __init__(self, model: nn.Module, factor: Callable[[], float], trains: Callable[[Optimizer], bool]) -> None:
        """``factor``: of the coming optimizer step. ``trains``: whether an optimizer steps on the model's weights."""
        self._model = model
        self._factor = factor
        self._trains = trains
        self._written: list[tuple[dict[str, Any], Any, Any]] = []
        self._suspended = False
        #: Those that have stepped since the last forward: their next step follows something else.
        self._stepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        _ALIVE.add(self)
        _watch_optimizers()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Inside, rates stay as they are: somebody else has scaled them."""
        before, self._suspended = self._suspended, True
        try:
            yield
        finally:
            self._suspended = before

    def begin(self, optimizer: Optimizer, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """``optimizer`` is about to step, with these arguments. Returns those that it is to take, or ``None``.

        A closure runs the forward: the mode, and so the factor, are known once it has.
        """
        owner, *rest = args
        named = "closure" in kwargs
        closure = kwargs.get("closure") if named else next(iter(rest), None)
        if not callable(closure):
            self.scale(optimizer)
            return None

        def then_scale() -> Any:
            self.put_back()
            loss = closure()
            self.scale(optimizer)
            return loss

        if named:
            return tuple(args), {**kwargs, "closure": then_scale}
        return (owner, then_scale, *rest[1:]), kwargs

    def forward_began(self) -> None:
        """The net runs a training forward, which the coming optimizer steps follow."""
        self.put_back()  # a step may have broken off
        self._stepped.clear()
        _LATEST[self._model] = weakref.ref(self)

    def scale(self, optimizer: Optimizer) -> None:
        """``optimizer`` is about to update the weights."""
        latest = _LATEST.get(self._model)
        if latest is None or latest() is not self:  # another net over the same model has taken over
            return
        if self._suspended or optimizer in self._stepped or not self._trains(optimizer):
            return
        factor = self._factor()
        if factor == 1:
            return
        scaled = {id(group) for group, _, _ in self._written}
        for group in optimizer.param_groups:
            rate = group.get("lr")
            if rate is not None and id(group) not in scaled:  # a wrapper and the wrapped optimizer share their groups
                group["lr"] = rate * factor
                self._written.append((group, rate, group["lr"]))

    def end(self, optimizer: Optimizer) -> None:
        """``optimizer`` has stepped."""
        self._stepped.add(optimizer)
        self.put_back()

    def put_back(self) -> None:
        """The step is over, or has broken off; what others have written since stays."""
        for group, rate, written in self._written:
            if group["lr"] is written:
                group["lr"] = rate
        self._written.clear()


@functools.cache
def _watch_optimizers() -> None:
    """Around the steps of all optimizers, from now on: removing a hook while torch runs through them would fail."""

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        for rates in list(_ALIVE):
            found = rates.begin(optimizer, args, kwargs)
            if found is not None:
                args, kwargs = found
        return args, kwargs

    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for rates in list(_ALIVE):
            rates.end(optimizer)

    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)
