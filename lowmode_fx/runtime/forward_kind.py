"""The purpose of a forward in train mode: a step, gathering statistics, or recomputing a checkpointed part."""

from __future__ import annotations

import enum
import inspect

import torch

from passes.torch_internals import in_backward_pass, is_jit_tracing

_CHECKPOINT = "torch.utils.checkpoint"


class ForwardKind(enum.Enum):
    """``STEP``: gradients may follow. ``NO_STEP``: they won't (averaged copies, statistics, a sanity check, a drawing).

    ``RECOMPUTED``: a backward pass recomputes an activation checkpoint.
    """

    STEP = enum.auto()
    NO_STEP = enum.auto()
    RECOMPUTED = enum.auto()


def forward_kind() -> ForwardKind:
    """The kind of the forward that the caller is about to run."""
    if torch.compiler.is_compiling():
        return ForwardKind.STEP if torch.is_grad_enabled() else ForwardKind.NO_STEP
    if is_jit_tracing():
        return ForwardKind.NO_STEP
    if in_backward_pass():
        return ForwardKind.RECOMPUTED
    if torch.is_grad_enabled() or _is_checkpointed():
        return ForwardKind.STEP
    return ForwardKind.NO_STEP


def _is_checkpointed() -> bool:
    """Whether a reentrant checkpoint runs this: without gradients now, with gradients in the backward pass."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == _CHECKPOINT and frame.f_code.co_name == "forward":
            return True
        frame = frame.f_back
    return False
