"""Fake tensors: shapes without values."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def fake_tensor_mode() -> Any:
    """A mode in which tensors have shapes and no values; real ones are allowed and stay as they are."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def fake_tensor_mode_without_kernels() -> Any:
    """A mode in which no kernel ever runs: operators without shape rules raise."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_fallback_kernels=False)


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor has shapes and no values."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


def fake_of(mode: Any, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
    """A fake tensor of ``mode``, on ``device``, from the meta tensor that ``make`` makes from meta and fake tensors.

    It bypasses the mode, which takes most of the time of an operator whose result is known.
    """
    fake_tensor = _fake_tensor_module()
    with fake_tensor.in_kernel_invocation_manager(mode):
        meta = make()
    fake: Tensor = fake_tensor.FakeTensor(mode, meta, device)
    return fake


@functools.cache
def _fake_tensor_module() -> Any:
    return importlib.import_module("torch._subclasses.fake_tensor")


def as_parameter(fake: Tensor, requires_grad: bool) -> Tensor:
    """The fake tensor itself as a parameter. ``nn.Parameter`` would make a view of it first."""
    fake._is_param = True  # what isinstance(_, nn.Parameter) asks for
    return fake.requires_grad_(requires_grad)


def without_modes() -> Any:
    """A context in which tensors are real again, inside a fake mode and modes above it."""
    from torch.utils._python_dispatch import _disable_current_modes

    return _disable_current_modes()


def errors_of_unknown_values() -> tuple[type[Exception], ...]:
    """The errors of fake tensors when a value is read, or when it decides a shape."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    return DataDependentOutputException, DynamicOutputShapeException
