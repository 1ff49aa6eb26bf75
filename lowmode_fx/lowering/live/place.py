"""Where in a model's code a call is made: inside which module, and inside whose ``autograd.Function``.

Nothing is hooked or patched for it: the frames of the call tell, and while dynamo traces, its own record of the code
that it follows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

_TRACER = "torch._dynamo.symbolic_convert"
_RESUMED = "torch_dynamo_resume_in_"


class Code(NamedTuple):
    """Code that runs, or that dynamo follows. ``first``: its first argument, as ``self``; ``modules``: ids of the
    modules that dynamo has entered to come here.
    """

    code: CodeType
    first: Any
    modules: tuple[int, ...] = ()


def running_code() -> Iterator[Code]:
    """The code that led to the caller's caller, innermost first."""
    frame = inspect.currentframe()
    frame = frame.f_back if frame else None
    followed: set[int] = set()
    while frame is not None:
        if frame.f_globals.get("__name__") == _TRACER:
            tracer = frame.f_locals.get("self")
            if hasattr(tracer, "symbolic_locals") and id(tracer) not in followed:
                followed.add(id(tracer))
                yield _followed_code(tracer)
        else:
            yield Code(frame.f_code, _first_argument(frame))
        frame = frame.f_back


def module_path(paths: Mapping[int, str]) -> str | None:
    """Path of the innermost module whose code runs, of those whose ``id`` has one; ``None`` where nothing tells."""
    for code, first, modules in running_code():
        if modules and modules[-1] in paths:
            return paths[modules[-1]]
        if isinstance(first, nn.Module) and id(first) in paths:
            return paths[id(first)]
        if code.co_name.startswith(_RESUMED):
            return None  # the rest of a forward that was broken off, which may have forgotten whose it is
    return None


def custom_function() -> type[torch.autograd.Function] | None:
    """The user's own ``autograd.Function`` in whose forward this happens, if in any."""
    for code, first, _ in running_code():
        if code.co_name == "forward" and not isinstance(first, nn.Module):
            found = next((kind for kind in _functions(torch.autograd.Function) if _code(kind.forward) is code), None)
            if found is not None:
                return found
    return None


def _first_argument(frame: FrameType) -> Any:
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _followed_code(tracer: Any) -> Code:
    code: CodeType = tracer.f_code
    first = tracer.symbolic_locals.get(code.co_varnames[0]) if code.co_argcount else None
    # Keys are ids, with a count behind them where a module is called again.
    entered = getattr(tracer, "nn_module_stack", {})
    modules = tuple(int(key.partition("@")[0]) for key in entered if key.partition("@")[0].isdigit())
    return Code(code, _followed_value(first), modules)


def _followed_value(variable: Any) -> Any:
    """What a variable that dynamo follows stands for, where it is an object; without making dynamo guard on it."""
    if hasattr(type(variable), "peek_value"):
        if not variable.is_realized():
            return variable.peek_value()
        variable = variable.unwrap()
    return getattr(variable, "value", None)


def _functions(base: type[torch.autograd.Function]) -> Iterator[type[torch.autograd.Function]]:
    """Every function of users: torch's own (checkpointing, synchronised norms) do what their callers mean."""
    for kind in base.__subclasses__():
        if kind.__module__.partition(".")[0] != "torch":
            yield kind
        yield from _functions(kind)


def _code(function: Callable[..., Any]) -> CodeType | None:
    return getattr(function, "__code__", None)
