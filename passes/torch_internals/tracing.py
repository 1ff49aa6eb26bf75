"""Tracing: whether it is active, and how it takes less time."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from passes.torch_internals.fake_tensors import is_fake


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` is active, as when fvcore counts."""
    from torch.jit import is_tracing  # type: ignore[attr-defined]

    return bool(is_tracing())


def is_symbolic_tracing() -> bool:
    """Whether ``torch.fx`` is tracing."""
    from torch.fx._symbolic_trace import is_fx_symbolic_tracing

    return bool(is_fx_symbolic_tracing())


@contextlib.contextmanager
def graphs_alone() -> Iterator[None]:
    """Inside, tracing makes graphs without what is not needed to read them, as far as this version of torch can.

    That is the code of each graph module, until it runs, and the place in the source of each node.
    """
    settings: Any = getattr(torch.fx, "config", None)
    traced = getattr(settings, "do_not_emit_stack_traces", None)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError):
            lazily = importlib.import_module("torch.fx._lazy_graph_module")._use_lazy_graph_module
            stack.enter_context(lazily(True))
        if traced is not None:
            settings.do_not_emit_stack_traces = True
            stack.callback(setattr, settings, "do_not_emit_stack_traces", traced)
        yield


@contextlib.contextmanager
def fake_norms_by_layout() -> Iterator[None]:
    """Inside, this thread's fake batch norms in training have the layout of their images.

    Torch runs twenty operators for each, a sixth of the time of an export. It still does for mixed or low precision.
    """
    module: Any = importlib.import_module("torch._decomp.decompositions")
    helper: Any = getattr(module, "native_batch_norm_helper", None)
    thread = threading.get_ident()

    def by_layout(*args: Any, **kwargs: Any) -> Any:
        if kwargs or threading.get_ident() != thread or not _has_layout_of_images(*args):
            return helper(*args, **kwargs)
        images, _, _, mean, var, *_ = args
        statistics = (images.new_empty(images.shape[1]) for _ in range(2))
        return torch.empty_like(images), *statistics, mean, var

    if helper is not None:
        module.native_batch_norm_helper = by_layout
    try:
        yield
    finally:
        if helper is not None:
            module.native_batch_norm_helper = helper


def _has_layout_of_images(images: Tensor, *args: Any) -> bool:
    *tensors, training, _, _, functional = args
    whole = images.is_contiguous() or (images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last))
    precise = images.dtype in (torch.float32, torch.float64)
    alike = all(each is None or each.dtype is images.dtype for each in tensors)
    return is_fake(images) and training and not functional and whole and precise and alike
