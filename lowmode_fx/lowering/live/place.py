"""Finds where in a model's code a call is made: in which module, which ``autograd.Function``, or in compiled code.

Nothing is hooked or patched: the stack frames of the call show it and, while dynamo traces, its own record of the code
that it traces.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn

from lowmode_fx.capture.custom_functions import function_of

_TRACER = "torch._dynamo.symbolic_convert"
_RESUMED = "torch_dynamo_resume_in_"


class Code:
    """Code that runs in ``frame``, or that dynamo traces in ``tracer``."""

    __slots__ = ("_variables", "code", "entered", "names")

    def __init__(self, frame: FrameType | None, tracer: Any = None) -> None:
        self.code: CodeType
        self.names: Mapping[str, Any]
        #: Ids of the modules that dynamo has entered on the way here.
        self.entered: tuple[int, ...] = ()
        if frame is not None:
            self.code, self.names, self._variables = frame.f_code, frame.f_globals, frame
            return
        self.code, self.names, self._variables = tracer.f_code, tracer.f_globals, tracer.symbolic_locals
        # Keys are ids, followed by a count if a module is called again.
        keys = [key.partition("@")[0] for key in getattr(tracer, "nn_module_stack", {})]
        self.entered = tuple(int(key) for key in keys if key.isdigit())

    @property
    def owner(self) -> Any:
        """The first argument of the code: ``self`` in a method."""
        variables: Any = getattr(self._variables, "f_locals", self._variables)
        if not self.code.co_name.startswith(_RESUMED):
            return _value(variables.get(self.code.co_varnames[0])) if self.code.co_argcount else None
        # After a graph break, the rest of a forward gets the variables that it still needs, in another order.
        if "self" in variables:
            return _value(variables["self"])
        modules = [value for value in map(_value, variables.values()) if isinstance(value, nn.Module)]
        return modules[0] if len(modules) == 1 else None


def running_code() -> Iterator[Code]:
    """The code that led to the caller, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    followed: set[int] = set()
    while frame is not None:
        if frame.f_globals.get("__name__") == _TRACER:
            tracer = frame.f_locals.get("self")
            if hasattr(tracer, "symbolic_locals") and id(tracer) not in followed:
                followed.add(id(tracer))
                yield Code(None, tracer)
        else:
            yield Code(frame)
        frame = frame.f_back


def calling_module(known: Container[int]) -> int | None:
    """The ``id`` of the innermost running module that is in ``known``; ``None`` if there is none."""
    for each in running_code():
        if each.entered and each.entered[-1] in known:
            return each.entered[-1]
        owner = each.owner
        if isinstance(owner, nn.Module) and id(owner) in known:
            return id(owner)
        if each.code.co_name.startswith(_RESUMED):
            return None  # the owner of this code can't be found
    return None


def in_compiled_code(known: Container[int], plain: set[CodeType]) -> bool:
    """Whether a compiler's code makes the call, which was lowered when it was traced.

    ``known``: ids of the model's modules. ``plain``: a cache of code objects that are never a compiler's; it is
    updated.
    """
    frame = sys._getframe(1)
    while frame.f_globals.get("__package__") == __package__ and frame.f_back is not None:
        frame = frame.f_back
    if "extern_kernels" in frame.f_globals:
        return True  # inductor's code, called often
    caller = frame.f_code
    if caller in plain:
        return False
    for each in running_code():
        owner = each.owner
        if isinstance(owner, fx.Interpreter):
            owner = owner.module
        ours = isinstance(owner, nn.Module) and id(owner) in known
        if not ours and (isinstance(owner, fx.GraphModule) or "extern_kernels" in each.names):
            return True  # fx's code, or inductor's
        if ours or not str(each.names.get("__name__")).startswith(("torch.", __package__)):
            if each.code is caller:
                plain.add(caller)
            return False
    return False


def custom_function() -> type[torch.autograd.Function] | None:
    """The user's ``autograd.Function`` whose forward makes the call, if any."""
    return next(filter(None, (function_of(each.code) for each in running_code())), None)


def _value(variable: Any) -> Any:
    """The object that a variable of dynamo stands for; any other variable is returned as it is.

    This installs no guard.
    """
    if not type(variable).__module__.startswith("torch._dynamo"):
        return variable
    if hasattr(type(variable), "peek_value"):
        if not variable.is_realized():
            return variable.peek_value()
        variable = variable.unwrap()
    return getattr(variable, "value", None)
