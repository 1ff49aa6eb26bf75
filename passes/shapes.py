"""Shapes of every node for a given input, worked out on fake tensors: no arithmetic, and no state is touched."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_map

from .binding import attributes_kept
from .errors import PassError


class Shape(tuple[int, ...]):
    """The shape of a tensor, told from a tuple or ``torch.Size`` that a graph passes about as a value."""


#: A ``Shape``, or lists, tuples and dictionaries of them; other values as they are.
ShapeTree = Any


class ShapeError(PassError):
    """A node that can't run on these shapes."""

    def __init__(self, node: fx.Node, inputs: list[ShapeTree], cause: str) -> None:
        super().__init__(f"{node.name} can't take {', '.join(map(str, inputs))}: {cause}")
        self.node = node
        self.inputs = inputs
        self.cause = cause


def propagate_shapes(
    graph_module: fx.GraphModule, *inputs: Tensor, watch: AbstractContextManager[object] | None = None
) -> dict[fx.Node, ShapeTree]:
    """Shape of every node's result for ``inputs`` (only their shapes, dtypes and devices count).

    ``watch``: entered around the run, to see its operators (a counter, say).

    Raises ``ShapeError`` at the first node that does not fit. Parameters, buffers and RNG stay as they are.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    interpreter = _ShapeInterpreter(graph_module, mode)
    with mode, torch.no_grad(), quiet_misfits(), attributes_kept(graph_module), watch or contextlib.nullcontext():
        interpreter.run(*(mode.from_tensor(value) for value in inputs))
    return interpreter.shapes


@contextlib.contextmanager
def quiet_misfits() -> Iterator[None]:
    """Shapes that don't fit are an answer here: fake tensors must not log them, traceback and all."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class _ShapeInterpreter(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(graph_module)
        self.extra_traceback = False
        self.mode = mode
        self.shapes: dict[fx.Node, ShapeTree] = {}

    def run_node(self, node: fx.Node) -> Any:
        try:
            result = super().run_node(node)
        except Exception as error:
            inputs = [self.shapes[source] for source in node.all_input_nodes if source.op != "get_attr"]
            raise ShapeError(node, inputs, _first_line(error)) from error
        self.shapes[node] = tree_map(lambda value: Shape(value.shape) if isinstance(value, Tensor) else value, result)
        return result

    def fetch_attr(self, target: str) -> Any:
        value = super().fetch_attr(target)
        return self.mode.from_tensor(value) if isinstance(value, Tensor) else value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A module may write to its buffers; under fake tensors a batch norm's counter would still be the real one.
        module: nn.Module = super().fetch_attr(target)
        tensors = [*module.named_parameters(), *module.named_buffers()]
        if not tensors:
            return module(*args, **kwargs)
        return functional_call(module, {name: self._stand_in(value) for name, value in tensors}, args, kwargs)

    def _stand_in(self, value: Tensor) -> Tensor:
        # A norm without momentum divides by its counter: made under the mode, a number stays known.
        counter = value.ndim == 0 and not value.is_floating_point() and value.device.type != "meta"
        return torch.tensor(1, dtype=value.dtype) if counter else self.mode.from_tensor(value)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
