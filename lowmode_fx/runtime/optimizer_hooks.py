"""Hooks around the steps of all optimizers, for listeners that come and go with their nets."""

from __future__ import annotations

import functools
import weakref
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from lowmode_fx.runtime.taken_steps import TakenSteps


class BeforeSteps(Protocol):
    """Is called before each step of any optimizer."""

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """``optimizer`` is about to step, with these arguments, itself first. Returns those that it is to take."""
        ...


class AfterSteps(Protocol):
    """Is called after each step of any optimizer."""

    def after_step(self, optimizer: Optimizer, taken: TakenSteps) -> None:
        """``optimizer`` has stepped; ``taken`` tells whether it has changed its weights."""
        ...


_BEFORE: weakref.WeakSet[BeforeSteps] = weakref.WeakSet()
_AFTER: weakref.WeakSet[AfterSteps] = weakref.WeakSet()
_TAKEN = TakenSteps()


def call_before_steps(listener: BeforeSteps) -> None:
    """Call ``listener`` before every step, for as long as it lives."""
    _BEFORE.add(listener)
    _hook_before()


def call_after_steps(listener: AfterSteps) -> None:
    """Call ``listener`` after every step, for as long as it lives."""
    _AFTER.add(listener)
    _hook_before()
    _hook_after()


# One hook each, which stays: torch fails where a hook is removed while it runs through them, as a listener's own would
# be if the listener is collected then.


@functools.cache
def _hook_before() -> None:
    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if _AFTER and not torch.compiler.is_compiling():  # a step that is compiled counts as taken
            _TAKEN.begins(optimizer)
        for listener in list(_BEFORE):
            args, kwargs = listener.before_step(optimizer, args, kwargs)
        return args, kwargs

    register_optimizer_step_pre_hook(before)


@functools.cache
def _hook_after() -> None:
    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_compiling():
            _TAKEN.ends(optimizer)
        for listener in list(_AFTER):
            listener.after_step(optimizer, _TAKEN)

    register_optimizer_step_post_hook(after)
