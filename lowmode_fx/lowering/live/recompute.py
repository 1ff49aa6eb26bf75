"""Activation checkpointing: recomputation in the backward pass runs in the mode of the first computation.

``torch.utils.checkpoint`` keeps a function for later, but not the modes that were active around it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.utils.checkpoint

Function = Callable[..., Any]
#: Wraps a function that is about to be checkpointed, so that it can be called again in the backward pass.
Reentrant = Callable[[Function], Function]

#: Functions of torch.utils.checkpoint that take the function to keep as first argument; not every torch has them all.
_KEEPERS = ("_checkpoint_without_reentrant_generator", "_checkpoint_without_reentrant_generator_impl")
#: Dynamo of torch 2.11 traces checkpointed functions outside of the active modes, as full-mode: there it must not
#: recognise the function, and falls back to Python (a graph break).
#: Dynamo of torch 2.14 calls the mode. Versions between the two have not been checked.
LEFT_TO_PYTHON = torch.__version__ < "2.14"
_checkpoint = torch.utils.checkpoint.checkpoint
_lock = threading.Lock()
_users = 0
_current = threading.local()


@contextlib.contextmanager
def recomputed_by(reentrant: Reentrant) -> Iterator[None]:
    """Inside, functions that this thread checkpoints are wrapped by ``reentrant``."""
    outer = getattr(_current, "reentrant", None)
    _current.reentrant = reentrant
    _install()
    try:
        yield
    finally:
        _remove()
        _current.reentrant = outer


def _install() -> None:
    global _users, _checkpoint
    with _lock:
        _users += 1
        if _users > 1:
            return
        for name in _KEEPERS:
            keeper = getattr(torch.utils.checkpoint, name, None)
            if keeper is not None:
                setattr(torch.utils.checkpoint, name, _handing_over(keeper))
        if LEFT_TO_PYTHON:
            _checkpoint = torch.utils.checkpoint.checkpoint  # torch's own, or a user's replacement
            torch.utils.checkpoint.checkpoint = functools.partial(_checkpoint)
        # An attribute of the class itself, which shadows the method that it inherits.
        apply = torch.utils.checkpoint.CheckpointFunction.apply
        torch.utils.checkpoint.CheckpointFunction.apply = _handing_over(apply)


def _remove() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users:
            return
        for name in _KEEPERS:
            keeper = getattr(torch.utils.checkpoint, name, None)
            if keeper is not None:
                setattr(torch.utils.checkpoint, name, keeper.__wrapped__)
        if LEFT_TO_PYTHON:
            torch.utils.checkpoint.checkpoint = _checkpoint
        del torch.utils.checkpoint.CheckpointFunction.apply


def _handing_over(keeper: Function) -> Function:
    @functools.wraps(keeper)
    def keep(function: Function, *args: Any, **kwargs: Any) -> Any:
        reentrant: Reentrant | None = getattr(_current, "reentrant", None)
        if reentrant is not None and not hasattr(function, "is_reentrant"):
            function = reentrant(function)
            function.is_reentrant = True  # type: ignore[attr-defined]
        return keeper(function, *args, **kwargs)

    return keep
