"""The mask of a block's last ReLU is not saved for the backward pass, and what is saved gives the same gradients."""

from __future__ import annotations

import importlib
import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._functorch.aot_autograd import aot_function, make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition as partition
from torch._inductor.decomposition import select_decomp_table

from lowmode_fx.lowering.compiled_blocks import CompiledBlocks
from lowmode_fx.lowering.recomputed_masks import recompute_masks
from passes.torch_internals import training_graphs_through


def block(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return F.relu(x + F.conv2d(F.relu(F.conv2d(x, first, padding=1)), second, padding=1), inplace=True)


def unmasked(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return F.hardtanh(block(x, first, second))


def saved_and_gradients(function: Any, graph_pass: Any) -> tuple[set[torch.dtype], list[Tensor]]:
    """Types of what a compiled forward saves or returns, and the gradients of the arguments."""
    saved: set[torch.dtype] = set()

    def forward(graph_module: fx.GraphModule, inputs: Any) -> Any:
        saved.update(node.meta["val"].dtype for node in graph_module.graph.output_node().all_input_nodes)
        return make_boxed_func(graph_module.forward)

    def divide(graph_module: fx.GraphModule, inputs: Any, **options: Any) -> Any:
        graph_pass(graph_module.graph)
        return partition(graph_module, inputs, **options)

    def backward(graph_module: fx.GraphModule, inputs: Any) -> Any:
        return make_boxed_func(graph_module.forward)

    compiled = aot_function(function, forward, backward, divide, select_decomp_table())
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, 6, 6), (4, 4, 3, 3), (4, 4, 3, 3)
    arguments = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    compiled(*arguments).square().sum().backward()
    return saved, [argument.grad for argument in arguments if argument.grad is not None]


def test_the_mask_of_the_last_relu_is_computed_again() -> None:
    before, expected = saved_and_gradients(block, lambda graph: None)
    after, found = saved_and_gradients(block, recompute_masks)
    assert torch.bool in before and torch.bool not in after
    assert len(found) == 3 and all(map(torch.equal, found, expected))


def test_other_masks_stay_as_torch_has_them() -> None:
    before, expected = saved_and_gradients(unmasked, lambda graph: None)
    after, found = saved_and_gradients(unmasked, recompute_masks)
    assert before == after == {torch.float32, torch.bool}
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("given", [None, "theirs"])
def test_blocks_are_compiled_through_the_pass_unless_the_user_has_one(given: Any) -> None:
    config: Any = importlib.import_module("torch._inductor.config")
    seen: list[Any] = []

    def compiler(function: Any) -> Any:
        def compiled(*args: Any) -> Any:
            seen.append(config.joint_custom_pre_pass)
            return function(*args)

        return compiled

    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with config.patch(joint_custom_pre_pass=given):
        with CompiledBlocks(model, ["0"], compiler).in_place():
            model(torch.zeros(1, 3, 4, 4))
        assert config.joint_custom_pre_pass is given
        with training_graphs_through(recompute_masks):
            assert seen == [config.joint_custom_pre_pass]
    assert seen[0].uuid() if given is None else seen == [given]


class Copied(nn.Module):
    """Returns a copy of its ReLU's result, which may be changed in place: the backward pass must not need it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x)).clone()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_copy_of_the_result_may_be_changed_in_place() -> None:
    model, images = nn.Sequential(Copied(), nn.ReLU()), torch.randn(2, 4, 6, 6)
    model[0](images).mul_(0.5).relu().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with CompiledBlocks(model, ["0"], torch.compile).in_place():
        model[0](images).mul_(0.5).relu().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-6)
