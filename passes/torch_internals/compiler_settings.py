"""Settings of ``torch.compile`` that hold for a block of code or for one compiled function."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx


@contextlib.contextmanager
def hooks_guarded() -> Iterator[None]:
    """Inside, compiled code detects hooks that are added to modules, or removed, later."""
    config: Any = torch._dynamo.config
    before = config.skip_nnmodule_hook_guards
    config.skip_nnmodule_hook_guards = False  # torch's ``patch`` takes four times as long, at every step
    try:
        yield
    finally:
        config.skip_nnmodule_hook_guards = before


@contextlib.contextmanager
def at_least_recompilations(number: int) -> Iterator[None]:
    """Inside, dynamo compiles one function up to ``number`` times, if its own limit is lower."""
    config: Any = torch._dynamo.config
    before = config.recompile_limit
    config.recompile_limit = max(before, number)
    try:
        yield
    finally:
        config.recompile_limit = before


@contextlib.contextmanager
def backward_compiled_at_once() -> Iterator[None]:
    """Inside, backward passes are compiled with their forwards, so that their errors come while a fallback can run."""
    config: Any = torch._functorch.config
    before = config.force_non_lazy_backward_lowering
    config.force_non_lazy_backward_lowering = True
    try:
        yield
    finally:
        config.force_non_lazy_backward_lowering = before


@contextlib.contextmanager
def training_graphs_through(graph_pass: Callable[[fx.Graph], None]) -> Iterator[None]:
    """Inside, inductor hands graphs of a forward and its backward to ``graph_pass`` before it changes and divides them.

    A pass of that kind that the user has set stays, and this one is left out. ``graph_pass``: a function that depends
    on nothing but its file.
    """
    config: Any = importlib.import_module("torch._inductor.config")
    before = config.joint_custom_pre_pass
    if before is not None:
        yield
        return
    config.joint_custom_pre_pass = _inductor_pass(graph_pass)
    try:
        yield
    finally:
        config.joint_custom_pre_pass = before


@functools.cache
def _inductor_pass(graph_pass: Callable[[fx.Graph], None]) -> Any:
    """In the form whose results inductor caches on disk."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class Pass(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            graph_pass(graph)

        def uuid(self) -> Any:
            return get_hash_for_files((inspect.getfile(graph_pass),))

    return Pass()


def with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or bound method, with a code object of its own, by which dynamo keeps what it has compiled.

    Those that share one share its compilations, of which dynamo makes eight, and may be given each other's: what a
    mode changes around a call is not among the things that dynamo checks. Other callables are returned as they are.
    """
    plain = getattr(function, "__func__", function)
    if not isinstance(plain, types.FunctionType):
        return function
    while "get_compiler_config" in plain.__dict__:  # by ``torch.compile``, which the next one leaves out, too
        plain = plain.__dict__["_torchdynamo_orig_callable"]
    code = plain.__code__.replace(co_name=f"{plain.__name__}_{next(_numbers)}")
    own = types.FunctionType(code, plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__)
    own.__kwdefaults__ = plain.__kwdefaults__
    own.__dict__.update(plain.__dict__)
    owner = getattr(function, "__self__", None)
    return own if owner is None else types.MethodType(own, owner)


_numbers = itertools.count(1)
