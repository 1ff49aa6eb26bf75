"""Checkpointed parts of a model are computed again in the backward pass: in the mode in which they were computed first.

``torch.utils.checkpoint`` keeps a function for later, and nothing of the modes around it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.utils.checkpoint

Function = Callable[..., Any]
#: Makes of a function that is about to be checkpointed one that can be called again in the backward pass.
Reentrant = Callable[[Function], Function]

#: Where torch.utils.checkpoint is handed the function that it keeps, its first argument; not every torch has them all.
_KEEPERS = ("_checkpoint_without_reentrant_generator", "_checkpoint_without_reentrant_generator_impl")
#: Dynamo of torch 2.11 traces what is checkpointed outside of the modes around it, as full-mode: there it must not
#: know the function for what it is, and leaves it to Python (a break in the graph).
#: Torch 2.14's asks the mode; between the two nobody has looked.
LEFT_TO_PYTHON = torch.__version__ < "2.14"
_checkpoint = torch.utils.checkpoint.checkpoint
_lock = threading.Lock()
_users = 0
_current = threading.local()


@contextlib.contextmanager
def recomputed_by(reentrant: Reentrant) -> Iterator[None]:
    """What this thread checkpoints inside is made ``reentrant``; else torch's functions are its own."""
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
            _checkpoint = torch.utils.checkpoint.checkpoint  # torch's own, or what a user has put in its place
            torch.utils.checkpoint.checkpoint = functools.partial(_checkpoint)
        # An attribute of the class itself, in front of the method that it inherits.
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
