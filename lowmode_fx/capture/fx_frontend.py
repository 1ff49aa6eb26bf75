"""The symbolic front end: convolutions as functions of their weight, stateful modules as leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from timm.layers.padding import pad_same
from torch import Tensor, fx, nn

from lowmode_fx.capture.custom_functions import mark_if_custom
from lowmode_fx.capture.hooks import forward_hooks_aside
from lowmode_fx.capture.inputs import ModelInputs
from passes.match import is_convolution, module_kernel
from passes.preserve import preserve_state, undo_writes

_CONVS = nn.modules.conv._ConvNd
#: A batch norm's counter is a side effect; a max pool with its own padding (timm's) stays one site.
_WHOLE = (nn.modules.batchnorm._NormBase, nn.modules.pooling._MaxPoolNd)


class FxFrontEnd:
    """``torch.fx``: traces the model on symbolic values, so its graphs hold for images of any size."""

    name = "fx"
    any_size = True

    def attempts(
        self, model: nn.Module, inputs: ModelInputs, example: Sequence[Tensor], leaf_modules: Sequence[type[nn.Module]]
    ) -> Iterator[Callable[[], fx.Graph]]:
        """First into registered modules that hold convolutions, which can often be traced; then around them."""
        if holds_untraceable_convs(model):
            yield partial(trace_symbolically, model, inputs, leaf_modules, enter_untraceable=True)
        yield partial(trace_symbolically, model, inputs, leaf_modules)


class ConvTracer(fx.Tracer):
    """A symbolic tracer that writes every convolution as a function of its weight.

    Leaves: torch's own modules except convolutions, batch norms and max pools of any origin, what timm registers as not
    traceable, and ``leaf_modules``. timm's "same"-padded convolutions are entered, with their size-dependent padding as
    a leaf function. ``enter_untraceable`` also enters registered modules that hold convolutions, which can often be
    traced.
    """

    def __init__(
        self, inputs: ModelInputs, leaf_modules: Sequence[type[nn.Module]] = (), enter_untraceable: bool = False
    ) -> None:
        super().__init__(autowrap_functions=(*get_notrace_functions(), pad_same), param_shapes_constant=True)
        self._inputs = inputs
        self._leaf_modules = tuple(leaf_modules)
        self._untraceable = {cls for cls in get_notrace_modules() if not issubclass(cls, _CONVS)}
        self._enter_untraceable = enter_untraceable

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """One placeholder per tensor of the example's call; its other values are part of the graph."""

        def call(root: nn.Module, *leaves: Any) -> Any:
            args, kwargs = self._inputs.call(leaves)
            return root.forward(*args, **kwargs)  # the root's own, if it has one

        return call, [self.root, *(self.create_proxy("placeholder", leaf.name, (), {}) for leaf in self._inputs.leaves)]

    def create_arg(self, a: Any) -> fx.node.Argument:
        if isinstance(a, dict) and type(a) is not dict:  # fx would return a plain dictionary
            return self.create_proxy("call_function", *_rebuilding(a)).node
        return super().create_arg(a)

    def create_node(self, kind: str, target: Any, *given: Any, **named: Any) -> fx.Node:
        node = super().create_node(kind, target, *given, **named)
        mark_if_custom(node)
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (*self._leaf_modules, torch.jit.ScriptModule)):
            return True
        if isinstance(m, _CONVS):
            return False
        if isinstance(m, _WHOLE):
            return True
        if type(m) in self._untraceable:
            return not (self._enter_untraceable and holds_conv(m))
        return super().is_leaf_module(m, module_qualified_name)


def _rebuilding(value: dict[Any, Any]) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """A call that makes a dictionary of its own class again; ``ModelOutput`` and similar classes are dataclasses."""
    if is_dataclass(value):
        return type(value), (), {each.name: getattr(value, each.name) for each in fields(value)}
    if not isinstance(value, defaultdict):
        return type(value), (list(value.items()),), {}
    factory = value.default_factory

    def rebuild(items: list[tuple[Any, Any]]) -> defaultdict[Any, Any]:
        return defaultdict(factory, items)

    return rebuild, (list(value.items()),), {}


def holds_conv(module: nn.Module) -> bool:
    """Whether it contains a convolution with more than one tap."""
    return any(is_convolution(part) and max(module_kernel(part)) > 1 for part in module.modules())


def holds_untraceable_convs(model: nn.Module) -> bool:
    """Whether more convolutions are inside modules that timm registers as not traceable."""
    registered = {cls for cls in get_notrace_modules() if not issubclass(cls, (_CONVS, *_WHOLE))}
    return any(type(module) in registered and holds_conv(module) for module in model.modules())


def trace_symbolically(
    model: nn.Module,
    inputs: ModelInputs,
    leaf_modules: Sequence[type[nn.Module]] = (),
    enter_untraceable: bool = False,
) -> fx.Graph:
    """The model's graph for any input size; the model is left as it was, whatever its forward writes.

    Raises whatever the model's own code raises on symbolic values.
    """
    with preserve_state(model, buffers=False), forward_hooks_aside(model), undo_writes():
        graph = ConvTracer(inputs, leaf_modules, enter_untraceable).trace(model)
        inline_constants(graph, model)
    return graph


def inline_constants(graph: fx.Graph, model: nn.Module) -> None:
    """Replace constants that the root holds outside its registries by calls that return them."""
    for node in list(graph.nodes):
        if node.op == "get_attr" and "." not in node.target:
            value = model.__dict__.get(node.target)
            if isinstance(value, Tensor):
                replace_by_constant(graph, node, value)


def replace_by_constant(graph: fx.Graph, node: fx.Node, value: Tensor) -> None:
    """Replace ``node`` by a call that returns ``value``."""
    with graph.inserting_before(node):
        constant = graph.call_function(returning(value))
    node.replace_all_uses_with(constant)
    graph.erase_node(node)


def returning(value: Tensor) -> Callable[[], Tensor]:
    """A function that returns ``value``, for a graph's constants."""

    def constant() -> Tensor:
        return value

    return constant
