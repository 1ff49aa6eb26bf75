"""Nodes that add up gradients are made anew, whoever keeps the old ones, and nothing else of a parameter changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowmode_fx.runtime.captured.accumulators import renew_accumulators


def node(parameter: Tensor) -> Any:
    return parameter.view_as(parameter).grad_fn.next_functions[0][0]


def test_a_graph_that_is_kept_keeps_no_node_of_the_next_one() -> None:
    parameter = nn.Parameter(torch.ones(3))
    kept = (2 * parameter).sum()
    node(parameter).metadata["old"] = True
    assert node(parameter).metadata == {"old": True}, "kept alive by the graph"
    renew_accumulators([parameter])
    assert node(parameter).metadata == {}
    kept.backward()
    assert torch.equal(parameter.grad, torch.full((3,), 2.0)), "the old graph adds up where it did"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_parameter_is_what_it_was(dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.randn(2, 3, 4, 4, dtype=dtype).to(memory_format=torch.channels_last))
    parameter.register_hook(lambda gradient: 3 * gradient)
    with torch.no_grad():
        parameter.add_(1)
    before = (parameter.data_ptr(), parameter._version, parameter.stride(), parameter.dtype, parameter.clone())
    renew_accumulators([parameter, torch.ones(2), parameter * 2])
    after = (parameter.data_ptr(), parameter._version, parameter.stride(), parameter.dtype)
    assert before[:-1] == after
    assert torch.equal(parameter, before[-1])
    parameter.sum().backward()
    assert torch.equal(parameter.grad, torch.full_like(parameter, 3.0)), "hooks run"
