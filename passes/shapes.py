"""Shapes of every node for given inputs, computed on tensors without values: no arithmetic, no state changes.

They are stored on the nodes: ``node_shape`` is the shape of a node's result in its own graph, ``full_shape`` in
full-mode. A node that only low-mode has has no shape in full-mode.
"""

from __future__ import annotations

import contextlib
import operator
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from passes.errors import PassError
from passes.meta_tensors import MetaTensorMode
from passes.preserve import preserve_attributes
from passes.shape_rules import SHAPE_RULES
from passes.torch_internals import fake_tensor_mode, quiet_misfits
from passes.trees import tree_map
from passes.wording import first_line


class Shape(tuple[int, ...]):
    """The shape of a tensor, as opposed to a tuple or ``torch.Size`` that a graph passes as a value."""


#: A ``Shape``, or lists, tuples and dictionaries of them; other values as they are.
ShapeTree = Any


_SHAPE, _FULL_SHAPE, _RESULT = "shape", "full_shape", "result"


def node_shape(node: fx.Node) -> ShapeTree:
    """Shape of the node's result in its own graph, as last recorded; ``None`` if it was not recorded."""
    return node.meta.get(_SHAPE)


def full_shape(node: fx.Node) -> ShapeTree:
    """Shape of the node's result in full-mode; ``None`` for a node that full-mode does not have."""
    return node.meta.get(_FULL_SHAPE)


def record_shape(node: fx.Node, shape: ShapeTree) -> None:
    """Record the shape of the node's result in its own graph."""
    node.meta[_SHAPE] = shape


def record_shapes(shapes: Mapping[fx.Node, ShapeTree]) -> None:
    """Record the shapes that ``propagate_shapes`` found."""
    for node, shape in shapes.items():
        record_shape(node, shape)


def record_result(node: fx.Node, result: Any) -> None:
    """Record a run's result of the node, for what can't be computed without values; tensors in it are dropped."""
    node.meta[_RESULT] = tree_map(
        lambda value: torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value, result
    )


def forget_results(graph: fx.Graph) -> None:
    """Drop what ``record_result`` recorded: the graph is for other inputs."""
    for node in graph.nodes:
        node.meta.pop(_RESULT, None)


def record_full_shapes(graph: fx.Graph, full: fx.Graph) -> None:
    """Record full-mode's shapes on the nodes of a low graph that still has full-mode's nodes, by name."""
    shapes = {node.name: node_shape(node) for node in full.nodes}
    for node in graph.nodes:
        if node.name in shapes:
            node.meta[_SHAPE] = node.meta[_FULL_SHAPE] = shapes[node.name]


class ShapeError(PassError):
    """A node that can't run on these shapes.

    Attributes:
        node: The node.
        shapes: The shapes of the nodes before it.
        inputs: The shapes of its inputs.
        cause: Torch's error, in one line.
    """

    def __init__(self, node: fx.Node, shapes: Mapping[fx.Node, ShapeTree], cause: str) -> None:
        self.node = node
        self.shapes = shapes
        self.inputs = [shapes[source] for source in node.all_input_nodes if source.op != "get_attr"]
        self.cause = cause
        super().__init__(f"{node.name} does not take {', '.join(map(str, self.inputs))}: {cause}")


def propagate_shapes(
    graph_module: fx.GraphModule, *inputs: Tensor, watch: AbstractContextManager[object] | None = None
) -> dict[fx.Node, ShapeTree]:
    """Compute the shape of every node's result.

    It runs on meta tensors, with rules for functions that are slow on them; if that fails for any reason, on torch's
    fake tensors, whose result is final. Parameters, buffers and random number generators stay as they are.

    Args:
        graph_module: The graph.
        *inputs: Its inputs, of which only shapes, dtypes and devices matter.
        watch: A context for a run on fake tensors, to see its operators (a counter, for example).

    Returns:
        The shape of each node's result, in the structure of the result.

    Raises:
        ShapeError: At the first node that does not fit.
    """
    if watch is None:
        # Meta tensors have no device and no values: code that reads one runs on fake tensors.
        with contextlib.suppress(Exception):
            return _on_meta_tensors(graph_module, inputs)
    return _on_fake_tensors(graph_module, inputs, watch or contextlib.nullcontext())


def _on_meta_tensors(graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> dict[fx.Node, ShapeTree]:
    if any(isinstance(module, torch.jit.ScriptModule) for module in graph_module.modules()):
        raise TypeError("compiled code runs below torch's functions, where meta tensors can't replace real ones")
    interpreter, mode = _MetaInterpreter(graph_module), MetaTensorMode()
    images = [mode.of(value) for value in inputs]
    with _state_kept(graph_module), mode, torch.no_grad():
        interpreter.run(*images, enable_io_processing=False)
    return interpreter.shapes


def _on_fake_tensors(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...], watch: AbstractContextManager[object]
) -> dict[fx.Node, ShapeTree]:
    mode = fake_tensor_mode()
    interpreter = _FakeInterpreter(graph_module, mode)
    with _state_kept(graph_module), mode, torch.no_grad(), quiet_misfits(), watch:
        interpreter.run(*(mode.from_tensor(value) for value in inputs))
    return interpreter.shapes


@contextlib.contextmanager
def _state_kept(graph_module: fx.GraphModule) -> Iterator[None]:
    """Modules are restored; synchronised norms do not communicate, since other ranks may not take part."""
    called = _called_modules(graph_module)
    with preserve_attributes(*called):
        for module in called:
            for part in module.modules():
                if isinstance(part, nn.SyncBatchNorm):
                    part.training = False
        yield


def _called_modules(graph_module: fx.GraphModule) -> list[nn.Module]:
    """The modules that the graph calls as a whole."""
    targets = {str(node.target) for node in graph_module.graph.nodes if node.op in ("call_module", "get_attr")}
    values = [operator.attrgetter(target)(graph_module) for target in targets]
    return [value for value in values if isinstance(value, nn.Module)]


class _MetaInterpreter(fx.Interpreter):
    """Inside ``MetaTensorMode``: modules run as they are."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.extra_traceback = False
        self.shapes: dict[fx.Node, ShapeTree] = {}

    def run_node(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        rule = SHAPE_RULES.get(node.target) if node.op == "call_function" else None
        result = rule(*args, **kwargs) if rule is not None else NotImplemented
        if result is NotImplemented:
            result = getattr(self, node.op)(node.target, args, kwargs)
        self.shapes[node] = Shape(result.shape) if isinstance(result, Tensor) else tree_map(_shape, result)
        return result


class _FakeInterpreter(fx.Interpreter):
    """Inside a mode of fake tensors: modules run with fakes of what they hold."""

    def __init__(self, graph_module: fx.GraphModule, mode: Any) -> None:
        super().__init__(graph_module)
        self.extra_traceback = False
        self.mode = mode
        self.shapes: dict[fx.Node, ShapeTree] = {}

    def run_node(self, node: fx.Node) -> Any:
        try:
            result = super().run_node(node)
        except Exception as error:
            if _RESULT not in node.meta:
                raise ShapeError(node, self.shapes, _complaint(error)) from error
            result = tree_map(self._like, node.meta[_RESULT])
        self.shapes[node] = tree_map(_shape, result)
        return result

    def _like(self, value: Any) -> Any:
        return self.mode.from_tensor(torch.empty_like(value, device="cpu")) if isinstance(value, Tensor) else value

    def fetch_attr(self, target: str) -> Any:
        value = super().fetch_attr(target)
        return self.mode.from_tensor(value) if isinstance(value, Tensor) else value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A module may write to its buffers; with fake tensors a batch norm's counter would still be the real one.
        module: nn.Module = super().fetch_attr(target)
        tensors = [*module.named_parameters(), *module.named_buffers()]
        if not tensors:
            return module(*args, **kwargs)
        return functional_call(module, {name: self._fake(value) for name, value in tensors}, args, kwargs)

    def _fake(self, value: Tensor) -> Tensor:
        # A norm without momentum divides by its counter: a number that is made under the mode stays known.
        counter = value.ndim == 0 and not value.is_floating_point() and value.device.type != "meta"
        return torch.tensor(1, dtype=value.dtype) if counter else self.mode.from_tensor(value)


def _shape(value: Any) -> Any:
    return Shape(value.shape) if isinstance(value, Tensor) else value


def _complaint(error: Exception) -> str:
    if str(error).strip():
        return first_line(error)
    # An assertion without a message: show its source line instead.
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/torch/" not in frame.filename]
    line = frames[-1].line if frames else ""
    return line if line and line.startswith("assert") else type(error).__name__
