"""The errors of ``torch.compile``, and whether it works at all."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from passes.wording import first_line

_COMPILER_ERRORS = {
    "torch._dynamo.exc": ("BackendCompilerFailed",),
    "torch._inductor.exc": ("InvalidCxxCompiler", "CppCompileError", "TritonMissing", "GPUTooOldForTriton"),
}


def compiler_errors() -> tuple[type[Exception], ...]:
    """The errors of ``torch.compile`` without a working compiler, as far as this version of torch has them."""
    found: list[type[Exception]] = []
    for module_name, names in _COMPILER_ERRORS.items():
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        found += [getattr(module, name) for name in names if hasattr(module, name)]
    return tuple(found)


def compiler_complaint(error: Exception) -> str:
    """The cause of one of ``compiler_errors``, in one line: the innermost error, with its type."""
    while isinstance(below := getattr(error, "inner_exception", None), Exception):
        error = below
    said = first_line(error)
    return said if said == type(error).__name__ else f"{type(error).__name__}: {said}"


def can_compile(compiler: Callable[[Any], Callable[..., Any]], device: torch.device) -> bool:
    """Whether ``compiler``, a ``torch.compile`` with its options, can compile a trivial function for a device."""

    def trivial(values: Tensor) -> Tensor:
        return values + 1

    try:
        compiler(trivial)(torch.zeros(2, device=device))
    except compiler_errors():
        return False
    return True


def is_uncaptured_operator(error: Exception) -> bool:
    """Whether the error says that a higher-order operator (``torch.cond``) can't be traced call by call."""
    return any(kind.__name__ == "UncapturedHigherOrderOpError" for kind in type(error).__mro__)
