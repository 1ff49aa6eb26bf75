"""The fallback front end: the model runs once, and its calls are recorded as they are made.

The graph is that of one run, with the branches and random draws that it took. It is used for counting, drawing and
planning; low steps run the model itself.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from lowmode_fx.capture.custom_functions import mark_if_custom
from lowmode_fx.capture.fx_frontend import returning
from lowmode_fx.capture.inputs import ModelInputs
from passes.preserve import preserve_state
from passes.shapes import record_result
from passes.spelling import as_keyword
from passes.torch_internals import is_uncaptured_operator
from passes.trees import tree_flatten, tree_leaves, tree_map, tree_unflatten

_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.memory_format, torch.layout)
#: Marks the place of a tensor among other leaves.
_TENSOR = object()


class LiveFrontEnd:
    """Runs the model itself. Low steps run the model too, since the graph is that of one run."""

    name = "live"
    any_size = False

    def attempts(
        self, model: nn.Module, inputs: ModelInputs, example: Sequence[Tensor], leaf_modules: Sequence[type[nn.Module]]
    ) -> Iterator[Callable[[], fx.Graph]]:
        """A single attempt: a forward on the example."""
        yield partial(record, model, inputs, example, leaf_modules)


def record(
    model: nn.Module, inputs: ModelInputs, example: Sequence[Tensor], leaf_modules: Sequence[type[nn.Module]] = ()
) -> fx.Graph:
    """The graph of one forward of ``model``; the model is left as it was, whatever its forward does to it.

    ``example``: values for the leaves of ``inputs``. ``leaf_modules``: classes inside which nothing is rewritten.
    Raises whatever the model raises.
    """
    leaves = [leaf.detach().clone() for leaf in example]
    args, kwargs = inputs.call(leaves)
    with preserve_state(model, buffers=False, gradients=True), torch.enable_grad():
        for module in model.modules():  # their registries are restored at the end
            if not isinstance(module, torch.jit.ScriptModule):
                module._buffers.update({n: None if b is None else b.clone() for n, b in module._buffers.items()})
        recorder = _Recorder(model, tuple(leaf_modules))
        for leaf, value in zip(inputs.leaves, leaves, strict=True):
            recorder.keep(value, recorder.graph.placeholder(leaf.name))
        with _watching(recorder):
            try:
                result = model(*args, **kwargs)
            except Exception as error:
                if not is_uncaptured_operator(error):
                    raise
                raise ValueError(
                    "it calls a higher-order operator, such as torch.cond, which runs as a whole and can't be "
                    "lowered call by call; use Python control flow (if, for), or give the part without it as "
                    f"{as_keyword('submodule')}"
                ).with_traceback(error.__traceback__) from None
        recorder.graph.output(recorder.output(result))
    return recorder.graph


class _Recorder(TorchFunctionMode):
    """Records each call of torch's functions in ``graph``."""

    def __init__(self, model: nn.Module, leaf_modules: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self._leaf_modules = leaf_modules
        self._paths = {id(module): (path, module) for path, module in model.named_modules()}
        # A tensor that several modules hold goes by its first name, as in ``named_parameters``.
        self._names = {id(value): name for name, value in (*model.named_buffers(), *model.named_parameters())}
        self._nodes: dict[int, tuple[Tensor, fx.Node]] = {}  # tensors are kept, so that ids are not reused
        self._stack: list[nn.Module] = []

    def keep(self, value: Tensor, node: fx.Node) -> None:
        """``node`` represents ``value`` from now on."""
        self._nodes[id(value)] = (value, node)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is Tensor.__setitem__:
            written = self._write(operator.setitem, args, kwargs)
            self.keep(args[0], self._call(_after, (self.argument(args[0]), written), {}))
        elif any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            if getattr(func, "__name__", "") == "__get__":  # of .T, .real, .data …
                descriptor: Any = func
                node = self._call(getattr, (self.argument(args[0]), descriptor.__self__.__name__), {})
            else:
                node = self._write(func, args, kwargs)
            self._keep_result(result, node)
        return result

    def _write(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> fx.Node:
        inside_leaf = any(isinstance(module, self._leaf_modules) for module in self._stack)
        leaves, structure = tree_flatten((tuple(args), kwargs))
        if not inside_leaf and all(_is_plain(leaf) for leaf in leaves):
            return self._call(func, tuple(map(self.argument, args)), {n: self.argument(v) for n, v in kwargs.items()})
        # Values that generated code can't express are bound in the function.
        refill = _refilling(leaves, structure)

        def call(*tensors: Tensor) -> Any:
            given, named = refill(tensors)
            return func(*given, **named)

        return self._call(call, tuple(self.argument(leaf) for leaf in leaves if isinstance(leaf, Tensor)), {})

    def _keep_result(self, result: Any, node: fx.Node) -> None:
        record_result(node, result)
        if isinstance(result, Tensor):
            self.keep(result, node)
        elif isinstance(result, tuple | list):
            for place, value in enumerate(result):
                if isinstance(value, Tensor | tuple | list):
                    self._keep_result(value, self._call(operator.getitem, (node, place), {}))

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        node = self.graph.call_function(func, args, kwargs)
        self._place(node)
        mark_if_custom(node)
        return node

    def _place(self, node: fx.Node) -> None:
        stack = [self._paths[id(module)] for module in self._stack if id(module) in self._paths]
        node.meta["nn_module_stack"] = {path: (path, type(module)) for path, module in stack}

    def argument(self, value: Any) -> Any:
        """A value as the graph's argument: tensors become nodes."""
        return tree_map(lambda leaf: self._node(leaf) if isinstance(leaf, Tensor) else leaf, value)

    def _node(self, value: Tensor) -> fx.Node:
        known = self._nodes.get(id(value))
        if known is not None:
            return known[1]
        name = self._names.get(id(value))
        node = self.graph.get_attr(name) if name else self._call(returning(value.detach()), (), {})
        self.keep(value, node)
        return node

    def output(self, result: Any) -> Any:
        """The model's result as the graph's output."""
        leaves, structure = tree_flatten(result)
        found = [self.argument(leaf) for leaf in leaves]
        if isinstance(result, Tensor):
            return found[0]

        def unflatten(values: list[Any]) -> Any:
            return tree_unflatten(list(values), structure)

        plain = all(_is_plain(leaf) for leaf in leaves)
        nodes = found if plain else [each for each in found if isinstance(each, fx.Node)]
        return self.graph.call_function(unflatten if plain else _refilling(leaves, structure), (nodes,))

    @contextlib.contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """Calls that are recorded inside belong to the module."""
        self._stack.append(module)
        try:
            yield
        finally:
            self._stack.pop()

    def note_compiled(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Record the call of a scripted module, whose compiled code hides its calls."""
        if isinstance(module, torch.jit.ScriptModule) and id(module) in self._paths:
            path, _ = self._paths[id(module)]
            given = {name: self.argument(value) for name, value in kwargs.items()}
            node = self.graph.call_module(path, tuple(map(self.argument, args)), given)
            self._place(node)
            self._keep_result(result, node)


@contextlib.contextmanager
def _watching(recorder: _Recorder) -> Iterator[None]:
    """Inside, calls are recorded with the modules that make them: by ``nn.Module.__call__``, like torch.fx."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with recorder.inside(module):
            result = original(module, *args, **kwargs)
        recorder.note_compiled(module, args, kwargs, result)
        return result

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        with recorder:
            yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


def _is_plain(value: Any) -> bool:
    return isinstance(value, (Tensor, slice, *_PLAIN)) or value is Ellipsis


def _after(value: Tensor, written: None) -> Tensor:
    """A tensor after something has been written to it."""
    return value


def _refilling(leaves: Sequence[Any], structure: Any) -> Callable[[Sequence[Any]], Any]:
    """A function of tensors that puts them back among the other leaves, which generated code can't express."""
    kept = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def refill(tensors: Sequence[Any]) -> Any:
        left = iter(tensors)
        return tree_unflatten([next(left) if each is _TENSOR else each for each in kept], structure)

    return refill
