"""Shapes without arithmetic: every rule against torch itself, meta tensors against fake ones, nothing touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lowmode_fx import capture
from passes import ShapeError, bind_graph, propagate_shapes
from passes.isolate_batchnorm import isolated_norm
from passes.kernel_math import average_kernel, bicubic_kernel, center_kernel, linear_kernel, pi_resize_kernel
from passes.meta_tensors import MetaTensorMode
from passes.shape_rules import SHAPE_RULES
from passes.shapes import Shape, _on_fake_tensors, _on_meta_tensors

MAP = torch.ones(2, 4, 5, 6)
ROW, CHANNELS, PIXEL = torch.ones(3, 6), torch.ones(4), torch.ones(2, 4, 1, 1)
TOKENS = torch.ones(2, 3, 7, 8)

ELEMENTWISE = [
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh),
    *(F.softplus, F.dropout, F.sigmoid, F.tanh, torch.relu, torch.sigmoid, torch.tanh, torch.sqrt, torch.exp),
    *(Tensor.relu, Tensor.sigmoid, Tensor.tanh, Tensor.sqrt),
]
ARITHMETIC = [
    *(torch.add, torch.sub, torch.mul, torch.div, Tensor.add, Tensor.sub, Tensor.mul, Tensor.div),
    *(Tensor.__add__, Tensor.__sub__, Tensor.__mul__),
]
OPERANDS = [(MAP, MAP), (MAP, PIXEL), (PIXEL, MAP), (MAP, 2), (MAP, 0.5), (MAP, torch.ones(5, 1))]
REDUCED = [(MAP, (2, 3)), (MAP, -1, True), (MAP, [1], True)]
#: function → calls whose result the rule must know by itself
CALLS: dict[Any, list[Any]] = {
    **{function: [(MAP,)] for function in ELEMENTWISE},
    **{function: OPERANDS for function in ARITHMETIC},
    **{function: REDUCED for function in (torch.mean, torch.sum, Tensor.mean, Tensor.sum)},
    **{function: [(MAP, 1), (MAP, -1)] for function in (F.softmax, torch.softmax, Tensor.softmax)},
    F.prelu: [(MAP, CHANNELS)],
    Tensor.clamp: [(MAP, 0.0, 1.0), (MAP, 0.5)],
    F.batch_norm: [
        (MAP, CHANNELS, CHANNELS, CHANNELS, CHANNELS, True, 0.1, 1e-5),
        (MAP, None, None, CHANNELS, CHANNELS, True),
        (PIXEL, CHANNELS, CHANNELS),
    ],
    torch.batch_norm: [(MAP, CHANNELS, CHANNELS, CHANNELS, CHANNELS, True, 0.1, 1e-5, False)],
    F.layer_norm: [(MAP, (6,)), (MAP, [5, 6], torch.ones(5, 6), torch.ones(5, 6), 1e-6)],
    F.group_norm: [(MAP, 2), (MAP, 4, CHANNELS, CHANNELS, 1e-6)],
    F.linear: [(MAP, ROW), (torch.ones(2, 6), ROW, torch.ones(3))],
    F.scaled_dot_product_attention: [
        (TOKENS, TOKENS, TOKENS),
        (TOKENS, TOKENS[:, :, :5], torch.ones(2, 3, 5, 9)),
        (TOKENS, TOKENS, TOKENS, torch.ones(3, 1, 7)),
    ],
    torch.cat: [([MAP, MAP[:, :1]], 1), ((MAP, MAP, MAP),), ([MAP, MAP], -1)],
    F.adaptive_avg_pool1d: [(MAP[0], 2), (MAP[0], (1,))],
    F.adaptive_avg_pool2d: [(MAP, 1), (MAP, (2, 3))],
    F.adaptive_avg_pool3d: [(MAP[None], 1), (MAP[None], [2, 1, 3])],
    average_kernel: [(torch.ones(3, 4, 5, 3), (3, 1), 2), (torch.ones(3, 4, 7), (3,), 2, "sum", True)],
    linear_kernel: [(torch.ones(3, 4, 5, 3), (3, 3), 2), (torch.ones(3, 4, 7), (3,), 2)],
    bicubic_kernel: [(torch.ones(3, 4, 5, 3), (3, 1)), (torch.ones(3, 4, 7), (3,), "norm")],
    pi_resize_kernel: [(torch.ones(3, 4, 5, 3), (3, 3), 2, (1, 2)), (torch.ones(3, 4, 7), (3,), 2, (1,))],
    center_kernel: [(torch.ones(3, 4, 5), (3,)), (torch.ones(3, 4, 5, 5), (3, 1), "sum")],
    isolated_norm: [(nn.BatchNorm2d(4), MAP), (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), MAP)],
}


def test_every_rule_is_tried() -> None:
    assert CALLS.keys() == SHAPE_RULES.keys()


@pytest.mark.parametrize("function", CALLS, ids=lambda function: getattr(function, "__name__", str(function)))
def test_a_rule_gives_what_torch_gives(function: Callable[..., Any]) -> None:
    for arguments in CALLS[function]:
        expected = function(*arguments)
        with MetaTensorMode():
            found = SHAPE_RULES[function](*arguments)
        assert found is not NotImplemented, arguments
        assert found.is_meta or function is isolated_norm
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


#: Calls that torch refuses, each by its own words.
MISFITS: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (torch.add, (MAP, torch.ones(2, 4, 5, 7))),
    (Tensor.mul, (MAP, torch.ones(3))),
    (F.batch_norm, (MAP, torch.ones(3), torch.ones(3), None, None, True)),
    (F.batch_norm, (torch.ones(1, 4, 1, 1), None, None, None, None, True)),
    (F.layer_norm, (MAP, (5,))),
    (F.layer_norm, (MAP, (6,), torch.ones(5))),
    (F.group_norm, (MAP, 3)),
    (F.prelu, (MAP, torch.ones(3))),
    (F.linear, (MAP, torch.ones(3, 5))),
    (F.scaled_dot_product_attention, (TOKENS, torch.ones(2, 3, 7, 9), TOKENS)),
    (F.scaled_dot_product_attention, (TOKENS, TOKENS, TOKENS, torch.ones(3, 7, 6))),
    (torch.mean, (MAP, (4,))),
    (torch.cat, ([MAP, torch.ones(2, 4, 5, 7)], 1)),
    (torch.cat, ([MAP], 4)),
    (F.adaptive_avg_pool2d, (MAP, (1, 1, 1))),
]


@pytest.mark.parametrize(("function", "arguments"), MISFITS)
def test_what_torch_refuses_is_refused_in_its_words(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        function(*arguments)
    assert SHAPE_RULES[function](*arguments) is NotImplemented
    with MetaTensorMode(), pytest.raises((RuntimeError, ValueError, IndexError)):
        function(*arguments)


def test_what_is_out_of_the_ordinary_is_left_to_torch() -> None:
    whole = torch.ones(2, 4, dtype=torch.int64)
    for function, arguments in [
        (torch.sigmoid, (whole,)), (torch.add, (whole, 0.5)), (torch.mul, (torch.ones(2, 4), whole)),
        (torch.mean, (MAP,)), (torch.sum, (whole, 0)), (F.linear, (torch.ones(6), ROW)),
        (Tensor.clamp, (torch.ones(6), MAP)), (torch.softmax, (MAP, 1, torch.float64)),
    ]:  # fmt: skip
        assert SHAPE_RULES[function](*arguments) is NotImplemented
        with MetaTensorMode():
            found = function(*arguments)
        assert (found.shape, found.dtype) == (function(*arguments).shape, function(*arguments).dtype)


def traced(model: nn.Module) -> fx.GraphModule:
    return bind_graph(model, fx.Tracer().trace(model), "Traced")


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet_gn", "test_vit", "ghostnetv3_050"])
def test_meta_and_fake_tensors_agree_node_by_node(name: str) -> None:
    model = timm.create_model(name).train()
    images = torch.empty(2, *model.default_cfg["input_size"])
    graph_module = capture(model, images).graph_module
    on_meta = _on_meta_tensors(graph_module, (images,))
    on_fake = on_fake_tensors(graph_module, (images,))
    assert on_meta.keys() == on_fake.keys()
    for node, shape in on_fake.items():
        found = on_meta[node]
        assert isinstance(found, Shape) is isinstance(shape, Shape), node
        assert not isinstance(shape, Shape) or found == shape, node


class Restless(nn.Module):
    """Counts, draws, and keeps what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(x.mean((0, 2, 3)))
        self.cache = self.norm(x) + torch.rand(1) + torch.arange(6)
        return self.cache


class Holder(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


class LeafTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def on_fake_tensors(graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> dict[fx.Node, Any]:
    return _on_fake_tensors(graph_module, inputs, torch.no_grad())


@pytest.mark.parametrize("run", [_on_meta_tensors, on_fake_tensors])
def test_nothing_of_the_model_changes(run: Callable[..., Any]) -> None:
    model = Holder(Restless())
    graph_module = bind_graph(model, LeafTracer().trace(model), "Held")
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    shapes = run(graph_module, (MAP,))
    assert [tuple(shape) for shape in shapes.values()] == [tuple(MAP.shape)] * 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not hasattr(model.part, "cache")


def test_a_value_that_meta_tensors_lack_is_asked_of_fake_ones() -> None:
    graph_module = traced(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, momentum=None)))
    with pytest.raises(RuntimeError):
        _on_meta_tensors(graph_module, (MAP,))
    assert list(propagate_shapes(graph_module, MAP).values())[-1] == (2, 4, 3, 4)


def test_a_misfit_names_its_node() -> None:
    graph_module = traced(nn.Sequential(nn.Conv2d(4, 3, 1), nn.Linear(5, 2)))
    with pytest.raises(ShapeError, match=r"does not take \(2, 3, 5, 6\)") as caught:
        propagate_shapes(graph_module, MAP)
    assert caught.value.node.name == "_1"
