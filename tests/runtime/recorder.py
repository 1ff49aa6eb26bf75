"""What plays the part of CUDA graphs on a CPU: it records operators, and replays them over the same tensors.

And CUDA graphs that count as it does, so that a test runs with either.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves, tree_map

from passes.preserve import preserve_generators, undo_writes

#: Operators that hand a value to Python, for which a GPU's host would wait.
SYNCS = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::equal", "aten::is_nonzero"}


class SyncError(RuntimeError):
    """A value was asked for while operators were recorded."""


class Recorder:
    """``rehearse`` notes where Python asks for values; ``capture`` leaves every tensor and generator as it was."""

    def __init__(self) -> None:
        self.replays = 0
        self.captures = self.forgotten = 0

    def rehearse(self, run: Callable[[], Any]) -> tuple[Any, list[str]]:
        with _Recording(refuse=False) as recording:
            result = run()
        return result, recording.syncs

    def capture(self, run: Callable[[], Any], generators: Iterable[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        self.captures += 1
        with preserve_generators(), undo_writes(), _Recording(refuse=True) as recording:
            result = run()

        def replay() -> None:
            self.replays += 1
            recording.replay()

        return result, replay

    def capture_two(self, first: Any, between: Any, second: Any, generators: Any) -> tuple[Any, Any, Any]:
        self.captures += 1
        with preserve_generators(), undo_writes():
            with _Recording(refuse=True) as forward:
                result = first()
            between(result)
            with _Recording(refuse=True) as backward:
                second(result)

        def replay() -> None:
            self.replays += 1
            forward.replay()

        return result, replay, backward.replay

    def forget(self) -> None:
        self.forgotten += 1


class Counted:
    """CUDA graphs that count as the recorder does."""

    def __init__(self, graphs: Any) -> None:
        self.replays = self.captures = self.forgotten = 0
        self._graphs = graphs

    def rehearse(self, run: Callable[[], Any]) -> tuple[Any, list[str]]:
        return self._graphs.rehearse(run)  # type: ignore[no-any-return]

    def capture(self, run: Callable[[], Any], generators: Iterable[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        self.captures += 1
        result, replay = self._graphs.capture(run, generators)
        return result, partial(self._replay, replay)

    def capture_two(self, first: Any, between: Any, second: Any, generators: Any) -> tuple[Any, Any, Any]:
        self.captures += 1
        result, forward, backward = self._graphs.capture_two(first, between, second, generators)
        return result, partial(self._replay, forward), backward

    def forget(self) -> None:
        self.forgotten += 1
        self._graphs.forget()

    def _replay(self, replay: Callable[[], None]) -> None:
        self.replays += 1
        replay()


def recording() -> bool:
    """Whether what runs now is recorded, and not only rehearsed."""
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return True
    return any(isinstance(each, _Recording) and each.refuse for each in _get_current_dispatch_mode_stack())


class _Recording(TorchDispatchMode):
    def __init__(self, refuse: bool) -> None:
        super().__init__()
        self.refuse = refuse
        self.syncs: list[str] = []
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in SYNCS:
            if self.refuse:
                raise SyncError(f"{func._schema.name} asks for a value")
            frame = next(
                each
                for each in reversed(traceback.extract_stack())
                if "/torch/" not in each.filename and each.filename != __file__
            )
            self.syncs.append(f"{frame.filename}:{frame.lineno}")
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self._calls.append((func, _aside(args), _aside(kwargs), _aside(result)))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, recorded in self._calls:
                for old, new in zip(tree_leaves(recorded), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, Tensor) and old is not new and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def _aside(tree: Any) -> Any:
    """The same memory, with no part in a graph of autograd's."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)
