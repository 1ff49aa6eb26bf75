"""Copies of a model over fake tensors, including its Python state, functions and hooks."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from lowmode_fx.capture.proof.complaints import NotProvable
from lowmode_fx.capture.proof.fakes import Fakes
from passes.wording import first_line

_HOOKS = {
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
}
_REGISTRIES = ("_parameters", "_buffers", "_modules", "training")


def fake_copy(model: nn.Module, fakes: Fakes) -> nn.Module:
    """A deep copy of ``model`` over ``fakes``, in train mode, whose hooks report their calls to the recorder.

    Raises ``NotProvable`` if the model can't be copied.
    """
    # Parameters copy their data, generators a tensor: they must be replaced before that.
    memo: dict[int, Any] = {id(tensor): fakes.of(tensor) for tensor in (*model.parameters(), *model.buffers())}
    held = [value for module in model.modules() for value in vars(module).values()]
    memo |= {id(value): value.clone_state() for value in held if isinstance(value, torch.Generator)}
    try:
        with _Copying(fakes):
            copied = copy.deepcopy(model, memo)
            for name, module in copied.named_modules():
                _copy_functions(name, module, memo, fakes.recorder.calls)
    except NotProvable:
        raise
    except Exception as error:
        raise NotProvable(f"the model can't be copied: {first_line(error)}") from error
    if not copied.training:
        copied.train()
    return copied


def graph_over(graph_module: fx.GraphModule, copied: nn.Module) -> fx.GraphModule:
    """The code of ``graph_module`` over what ``copied`` holds."""
    over = object.__new__(type(graph_module))
    held = {registry: copied.__dict__[registry] for registry in _REGISTRIES}
    over.__dict__.update(graph_module.__dict__ | held)
    return over


class NotedHook:
    """A hook that records its calls."""

    def __init__(self, name: str, hook: Callable[..., Any], calls: list[str]) -> None:
        self.hook = hook
        self._name = name
        self._calls = calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._calls.append(self._name)
        return self.hook(*args, **kwargs)


class _Copying(TorchFunctionMode):
    """Tensors become fakes when they are copied."""

    def __init__(self, fakes: Fakes) -> None:
        super().__init__()
        self._fakes = fakes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # A parameter is copied as a clone of its data.
        if func is Tensor.__deepcopy__ or getattr(func, "__name__", "") == "clone":
            return self._fakes.of(args[0])
        return func(*args, **(kwargs or {}))


def _copy_functions(name: str, module: nn.Module, memo: dict[int, Any], calls: list[str]) -> None:
    """Copy functions, which close over objects, maybe the model itself; deep copies would share them."""
    if type(module) is nn.SyncBatchNorm:
        module.__class__ = _LoneNorm
    held = module.__dict__
    for attribute, value in held.items():
        if isinstance(value, weakref.ref):
            held[attribute] = weakref.ref(memo[id(value())]) if id(value()) in memo else value
        elif callable(value):
            held[attribute] = _function_copy(value, memo)
    for registry, kind in _HOOKS.items():
        hooks = held[registry]
        for key, hook in hooks.items():
            hooks[key] = NotedHook(f"{kind} of {name or 'the model'}", _function_copy(hook, memo), calls)


def _function_copy(function: Any, memo: dict[int, Any]) -> Any:
    """The deep copy or, for a function, one that closes over copies."""
    if isinstance(function, types.MethodType):
        return types.MethodType(_function_copy(function.__func__, memo), function.__self__)
    if type(function) is functools.partial:
        bound = functools.partial(_function_copy(function.func, memo), *function.args, **function.keywords)
        bound.__dict__.update(function.__dict__)
        return bound
    if not isinstance(function, types.FunctionType) or not function.__closure__:
        return function
    if id(function) not in memo:
        cells = tuple(types.CellType() for _ in function.__closure__)
        copied = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
        )
        copied.__kwdefaults__ = function.__kwdefaults__
        copied.__dict__.update(function.__dict__)
        memo[id(function)] = memo[id(copied)] = copied
        for cell, original in zip(cells, function.__closure__, strict=True):
            with contextlib.suppress(ValueError):  # an empty cell
                cell.cell_contents = _function_copy(copy.deepcopy(original.cell_contents, memo), memo)
    return memo[id(function)]


class _LoneNorm(nn.SyncBatchNorm):
    """A synchronised norm that does not communicate with other ranks, which may not take part."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.modules.batchnorm._BatchNorm.forward(self, input)

    def _check_input_dim(self, input: Tensor) -> None:
        return None
