"""What proofs are made of: values as expressions, and results that are known without asking torch again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import empty, layout
from spec_modules import build_cnn, draw_images
from specs import CNNSpec
from strategies import cnn_specs
from torch import Tensor, fx

from lowmode_fx.capture.capture import capture
from lowmode_fx.capture.proof import prove
from lowmode_fx.capture.proof.results import Results
from lowmode_fx.capture.proof.values import Values, key_of
from passes import bind_graph
from passes.torch_internals import fake_tensor_mode_without_kernels

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]
quick = settings(
    max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
aten = torch.ops.aten


# -- random networks -------------------------------------------------------------------------------------------------


@quick
@given(cnn_specs())
def test_random_networks_hold(spec: CNNSpec) -> None:
    model, images = build_cnn(spec), draw_images(spec)
    captured = capture(model, images, "fx")
    proof = prove(model, captured.graph_module, (images,), at=[((draw_images(spec, 2),), {})])
    assert proof.holds, proof.difference


@quick
@given(cnn_specs(), st.data())
def test_a_sign_turned_anywhere_is_found(spec: CNNSpec, data: st.DataObject) -> None:
    model, images = build_cnn(spec), draw_images(spec)
    graph = capture(model, images, "fx").graph_module.graph
    used = [
        node for node in graph.nodes if node.op != "output" and isinstance(node.meta.get("shape"), torch.Size | tuple)
    ]
    _turn_sign(graph, data.draw(st.sampled_from(used), label="node"))
    assert not prove(model, bind_graph(model, graph, "Turned"), (images,)).holds


def _turn_sign(graph: fx.Graph, node: fx.Node) -> None:
    following = next(each for each in graph.nodes if each.op not in ("placeholder", "get_attr"))
    place: Any = graph.inserting_before(following) if node.op == "placeholder" else graph.inserting_after(node)
    with place:
        turned = graph.call_function(torch.neg, (node,))
    node.replace_all_uses_with(turned, delete_user_cb=lambda user: user is not turned)


# -- results ---------------------------------------------------------------------------------------------------------


OPERATORS: dict[str, tuple[Any, Callable[[], tuple[Any, ...]]]] = {
    "a view": (aten.slice.Tensor, lambda: (empty(2, 3, 4, 5), 1, 0, 2)),
    "a view of another dtype": (aten.view.dtype, lambda: (empty(2, 4), torch.int32)),
    "several views": (aten.split.Tensor, lambda: (empty(4, 3), 2)),
    "in place": (aten.relu_.default, lambda: (empty(2, 3),)),
    "turned in place": (aten.t_.default, lambda: (empty(2, 3),)),
    "new": (aten.mul.Tensor, lambda: (empty(2, 3, 4, 4, memory_format=torch.channels_last), empty(3, 1, 1))),
    "several new": (aten.max_pool2d_with_indices.default, lambda: (empty(2, 3, 8, 8), [2, 2])),
    "new and none": (
        aten.convolution_backward.default,
        lambda: (
            *(empty(2, 4, 6, 6), empty(2, 3, 8, 8), empty(4, 3, 3, 3), [4]),
            *([1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, True]),
        ),
    ),
    "another dtype": (aten._to_copy.default, lambda: (empty(2, 3),)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_results_are_those_of_torch(name: str) -> None:
    func, make = OPERATORS[name]
    kwargs = {"dtype": torch.float64} if func is aten._to_copy.default else {}
    mode = fake_tensor_mode_without_kernels()
    results = Results(mode)
    with mode:
        expected = func(*make(), **kwargs)
        for _ in range(2):  # asked, then known
            args = make()
            result = results.of(func, args, kwargs, "of this kind")
            assert layout(result) == layout(expected)
            if isinstance(result, Tensor):
                assert (result is args[0]) == ("in place" in name)
                views = "view" in name or "in place" in name
                assert (result.untyped_storage() is args[0].untyped_storage()) == views


# -- values ----------------------------------------------------------------------------------------------------------


def test_arguments_that_python_takes_for_equal_are_distinguished() -> None:
    distinct = [1, 1.0, True, 0.0, -0.0, None, "1", [1], [[1]], [], float("inf"), torch.float32]
    keys = [key_of(each, hash) for each in distinct]
    assert len(set(keys)) == len(distinct)
    assert key_of(float("nan"), hash) == key_of(float("nan"), hash)
    assert key_of([1, (2.0, None)], hash) == key_of((1, [2.0, None]), hash)


def test_equal_expressions_are_one_value_and_partings_are_followed_down() -> None:
    values = Values()
    image = values.number("input", "input 0", 0)
    geometry = values.geometry(torch.empty(2, 3))

    def scaled(source: int, by: float) -> int:
        return values.number("aten.mul.Tensor", ("tensor", source, geometry), key_of(by, hash))

    def root(source: int) -> int:
        return values.number("aten.sqrt", ("tensor", source, geometry))

    assert scaled(image, 2.0) == scaled(image, 2.0) != scaled(image, 3.0)
    values.locate(scaled(image, 2.0), ("/models/mine.py", 7))
    values.locate(root(root(scaled(image, 2.0))), ("/models/mine.py", 9))
    apart = values.parting(root(root(scaled(image, 2.0))), root(root(scaled(image, 3.0))))
    assert apart == ("aten.mul.Tensor (line 7 of mine.py) with 2.0", "with 3.0")
    assert values.parting(root(image), image) == ("aten.sqrt", "input 0")
    assert values.told(root(scaled(image, 2.0))) == "aten.sqrt (behind line 7 of mine.py)"


def test_sides_of_one_have_no_strides() -> None:
    values = Values()
    one, other = torch.empty_strided((2, 1, 3), (3, 3, 1)), torch.empty_strided((2, 1, 3), (3, 1, 1))
    assert values.geometry(one) == values.geometry(other)
    assert values.geometry(one) != values.geometry(torch.empty_strided((2, 1, 3), (1, 1, 2)))
