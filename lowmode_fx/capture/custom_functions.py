"""Finds the ``autograd.Function`` of a user's own whose forward makes a call: its backward is for the full kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from passes.calls import CONVS
from passes.pooling_rule import CUSTOM_FUNCTION


def mark_if_custom(node: fx.Node) -> None:
    """Mark the node of a convolution that is being traced in a custom function: passes keep its kernel."""
    if node.target in CONVS and _tracing_function() is not None:
        node.meta[CUSTOM_FUNCTION] = True


class CustomCalls(TorchFunctionMode):
    """Notes which convolutions that are called inside stand in a custom function, for a tracer of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self._found: list[bool] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in CONVS:
            self._found.append(_tracing_function() is not None)
        return func(*args, **(kwargs or {}))

    def mark(self, graph: fx.Graph) -> None:
        """Mark the nodes of these calls, if the graph has as many in the same order."""
        nodes = [node for node in graph.nodes if node.target in CONVS]
        if len(nodes) == len(self._found):
            for node, custom in zip(nodes, self._found, strict=True):
                if custom:
                    node.meta[CUSTOM_FUNCTION] = True


def function_of(code: CodeType) -> type[torch.autograd.Function] | None:
    """The user's function whose forward is this code; ``None`` for any other code."""
    if code.co_name == "forward":
        for kind in _functions(torch.autograd.Function):
            if getattr(kind.forward, "__code__", None) is code:
                return kind
    return None


def _tracing_function() -> type[torch.autograd.Function] | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = function_of(frame.f_code)
        if found is not None:
            return found
        frame = frame.f_back
    return None


def _functions(base: type[torch.autograd.Function]) -> Iterator[type[torch.autograd.Function]]:
    """Every user-defined function; torch's own ones (checkpointing, synchronised norms) can be lowered."""
    for kind in base.__subclasses__():
        if kind.__module__.partition(".")[0] != "torch":
            yield kind
        yield from _functions(kind)
