"""The learning rate of a step whose batch has another size: scaled while an optimizer steps, and then put back."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lowmode_fx.runtime.optimizer_hooks import call_after_steps, call_before_steps
from lowmode_fx.runtime.taken_steps import TakenSteps

__all__ = ["ScaledRates"]


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
        call_before_steps(self)
        call_after_steps(self)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Inside, rates stay as they are: somebody else has scaled them."""
        before, self._suspended = self._suspended, True
        try:
            yield
        finally:
            self._suspended = before

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """``optimizer`` is about to step, with these arguments. Returns those that it is to take.

        A closure runs the forward: the mode, and so the factor, are known once it has.
        """
        owner, *rest = args
        named = "closure" in kwargs
        closure = kwargs.get("closure") if named else next(iter(rest), None)
        if not callable(closure):
            self.scale(optimizer)
            return args, kwargs

        def then_scale() -> Any:
            self.put_back()
            loss = closure()
            self.scale(optimizer)
            return loss

        if named:
            return args, {**kwargs, "closure": then_scale}
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

    def after_step(self, optimizer: Optimizer, taken: TakenSteps) -> None:
        """``optimizer`` has stepped."""
        self._stepped.add(optimizer)
        self.put_back()

    def put_back(self) -> None:
        """The step is over, or has broken off; what others have written since stays."""
        for group, rate, written in self._written:
            if group["lr"] is written:
                group["lr"] = rate
        self._written.clear()
