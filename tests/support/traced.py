"""Graphs as front ends make them, whether they train as the model does or not."""

from __future__ import annotations

from typing import Any

from torch import nn

from lowmode_fx import Captured
from lowmode_fx.capture.capture import trace_call
from lowmode_fx.capture.inputs import model_inputs


def traced(model: nn.Module, example: Any, front_end: Any) -> Captured:
    """What ``capture`` gives, without a proof."""
    inputs, tensors = model_inputs(model, example)
    return trace_call(model, inputs, tensors, front_end)
