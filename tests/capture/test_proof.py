"""Proofs of graphs that were changed, of other sizes and calls, and of models that can't be followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from proof_oracle import CHANNELS, Small
from torch import Tensor, fx, nn
from traced import traced

from lowmode_fx.capture.proof import Proof, prove
from passes import bind_graph

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.zeros(2, 3, 8, 8)


def changed(model: nn.Module, change: Callable[[fx.Graph], Any]) -> Proof:
    captured = traced(model, IMAGES, "fx")
    change(captured.graph_module.graph)
    return prove(model, bind_graph(model, captured.graph_module.graph, "Changed"), (IMAGES,))


def node_of(graph: fx.Graph, target: Any) -> fx.Node:
    return next(node for node in graph.nodes if node.target == target)


def test_another_number_is_reported_with_its_line() -> None:
    class Scaled(Small):
        def between(self, maps: Tensor) -> Tensor:
            return maps * 0.25

    def change(graph: fx.Graph) -> None:
        node = next(node for node in graph.nodes if 0.25 in node.args)
        node.args = (node.args[0], 0.5)

    line = Scaled.between.__code__.co_firstlineno + 1
    expected = f"output: aten.mul.Tensor (line {line} of test_proof.py) with 0.25 in the model, with 0.5 in the graph"
    assert changed(Scaled(), change).difference == expected


def test_a_difference_of_the_backward_pass_is_followed_to_the_source() -> None:
    def change(graph: fx.Graph) -> None:
        node = node_of(graph, F.relu)
        with graph.inserting_after(node):
            detached = graph.call_method("detach", (node,))
        node.replace_all_uses_with(detached)
        detached.args = (node,)

    assert changed(Small(), change).difference == "gradient['stem.weight']: in the model only"


def test_unused_results_and_irrelevant_order_are_no_difference() -> None:
    def change(graph: fx.Graph) -> None:
        first = node_of(graph, torch.conv2d)
        with graph.inserting_after(first):
            graph.call_function(torch.neg, (first,))
        parameters = [node for node in graph.nodes if node.op == "get_attr"]
        placeholder = node_of(graph, "images")
        for node in parameters:
            placeholder.append(node)

    assert changed(Small(), change).holds


def test_draws_in_another_order_are_a_difference() -> None:
    class TwoDraws(Small):
        def between(self, maps: Tensor) -> Tensor:
            return torch.rand_like(maps) - torch.rand_like(maps)

    def change(graph: fx.Graph) -> None:
        first, second = (node for node in graph.nodes if node.target == torch.rand_like)
        second.append(first)

    proof = changed(TwoDraws(), change)
    assert not proof.holds
    assert "aten.rand_like" in proof.difference


@pytest.mark.parametrize("seed", [5, 6])
def test_a_generator_that_is_seeded_before_it_draws_shows_whatever_its_seed_was(seed: int) -> None:
    class Seeded(Small):
        def between(self, maps: Tensor) -> Tensor:
            torch.default_generator.manual_seed(5)
            return maps * torch.rand_like(maps)

    class Drawing(Small):
        def between(self, maps: Tensor) -> Tensor:
            return maps * torch.rand_like(maps)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        graph = traced(Drawing(), IMAGES, "fx").graph_module.graph
        model = Seeded()
        proof = prove(model, bind_graph(model, graph, "Drawing"), (IMAGES,))
    assert proof.difference.startswith("output: aten.rand_like (line ")
    assert " with 5 in the model, " in proof.difference


def test_an_unused_draw_is_a_difference() -> None:
    def change(graph: fx.Graph) -> None:
        node = node_of(graph, F.relu)
        with graph.inserting_after(node):
            graph.call_function(torch.rand_like, (node,))

    assert changed(Small(), change).difference == 'draws["torch\'s generator"]: in the graph only'


def test_work_done_twice_is_a_difference() -> None:
    class Reused(Small):
        def between(self, maps: Tensor) -> Tensor:
            maps = torch.tanh(maps)
            return maps + maps

    def change(graph: fx.Graph) -> None:
        node = node_of(graph, torch.tanh)
        with graph.inserting_after(node):
            again = graph.call_function(torch.tanh, node.args)
        next(iter(node.users)).replace_input_with(node, again)

    proof = changed(Reused(), change)
    assert proof.difference.startswith("work: aten.tanh (line ")
    assert proof.difference.endswith(" once in the model, 2 times in the graph")


def test_statistics_that_a_norm_moves_without_saying_so_are_compared() -> None:
    class Observed(Small):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(CHANNELS))
            self.register_buffer("variance", torch.ones(CHANNELS))

        def between(self, maps: Tensor) -> Tensor:
            F.batch_norm(maps.detach(), self.mean, self.variance, training=True)
            return maps

    def change(graph: fx.Graph) -> None:
        graph.erase_node(node_of(graph, F.batch_norm))

    assert changed(Observed(), lambda graph: None).holds
    assert changed(Observed(), change).difference.startswith("mean: aten.native_batch_norm (line ")


# -- images of another size ------------------------------------------------------------------------------------------


class OneSize(Small):
    """An export of it holds for one size of images."""

    def between(self, maps: Tensor) -> Tensor:
        return maps.reshape(maps.shape[0], CHANNELS, -1).cumsum(2).reshape(maps.shape) / 10


def test_a_graph_is_held_against_its_model_at_other_sizes_too() -> None:
    model, smaller = OneSize(), torch.zeros(2, 3, 4, 4)
    by_fx, by_export = (traced(model, IMAGES, name).graph_module for name in ("fx", "export"))
    assert prove(model, by_fx, (IMAGES,), at=[((smaller,), {})]).holds
    assert prove(model, by_export, (IMAGES,)).holds
    proof = prove(model, by_export, (IMAGES,), at=[((smaller,), {})])
    assert proof.difference.startswith("the graph fails, but not the model: ")


class PartOfTheBatch(Small):
    """An export of it holds the number of images."""

    def between(self, maps: Tensor) -> Tensor:
        return maps - maps.sum(0, keepdim=True) / maps.shape[0]


def test_a_graph_is_held_against_its_model_for_another_number_of_images() -> None:
    model, more = PartOfTheBatch(), ((torch.zeros(4, 3, 8, 8),), {})
    by_fx, by_export = (traced(model, IMAGES, name).graph_module for name in ("fx", "export"))
    for steps in (1, 2):
        assert prove(model, by_fx, (IMAGES,), second=more, steps=steps).holds
        assert prove(model, by_export, (IMAGES,), steps=steps).holds
        proof = prove(model, by_export, (IMAGES,), second=more, steps=steps)
        assert "with 4 in the model, with 2 in the graph" in proof.difference


def test_a_number_of_images_that_the_model_does_not_take_is_left_out() -> None:
    class Pairs(Small):
        def between(self, maps: Tensor) -> Tensor:
            one, other = maps
            return torch.stack([one + other, one - other])

    model = Pairs()
    graph = traced(model, IMAGES, "export").graph_module
    for steps in (1, 2):
        assert prove(model, graph, (IMAGES,), second=((torch.zeros(4, 3, 8, 8),), {}), steps=steps).holds


class Scaled(Small):
    """By numbers that tracing works out."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = [0.5, 1.0, 1.5, 2.0]

    def between(self, maps: Tensor) -> Tensor:
        scale = torch.tensor(self.numbers).sort(descending=True).values.double() / 3
        return maps * scale.to(torch.float32)[:, None, None]


@pytest.mark.parametrize("front_end", ["fx", "export"])
def test_what_is_computed_of_constants_alone_is_a_constant(front_end: Any) -> None:
    """A graph may hold it ready; the numbers count then, not how they came about."""
    model = Scaled()
    graph = traced(model, IMAGES, front_end).graph_module
    assert prove(model, graph, (IMAGES,)).holds
    model.numbers[1] = 1.25
    proof = prove(model, graph, (IMAGES,))
    assert proof.difference == "output: a constant in the model, a different one in the graph"


def test_a_size_that_neither_takes_is_no_difference() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    graph = traced(model, IMAGES, "fx").graph_module
    assert prove(model, graph, (IMAGES,), at=[((torch.zeros(2, 3, 4, 4),), {})]).holds


def test_a_model_that_fails_is_not_proven() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    graph = traced(model, IMAGES, "fx").graph_module
    proof = prove(model, graph, (torch.zeros(2, 3, 4, 4),))
    assert not proof.holds
    assert proof.difference.startswith("not provable: ")


# -- calls -----------------------------------------------------------------------------------------------------------


class Supervised(Small):
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        logits = super().forward(pixel_values)
        return logits if labels is None else (F.cross_entropy(logits, labels), logits)


def test_a_graph_of_tensors_alone_is_called_with_the_leaves_of_the_call() -> None:
    model, labels = Supervised(), torch.zeros(2, dtype=torch.long)
    captured = traced(model, {"pixel_values": IMAGES, "labels": labels}, "fx")

    def leaves(args: Any, kwargs: Any) -> Any:
        return captured.inputs.flatten(model, args, kwargs)

    call = {"pixel_values": IMAGES, "labels": labels}
    proof = prove(model, captured.graph_module, (), call, leaves=leaves)
    assert proof.holds, proof.difference


def test_images_that_are_written_to_are_compared() -> None:
    class Normalised(Small):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.div_(2))

    def change(graph: fx.Graph) -> None:
        node_of(graph, "div_").target = "div"

    assert changed(Normalised(), lambda graph: None).holds
    assert changed(Normalised(), change).difference.startswith("input")


# -- what there is no proof for --------------------------------------------------------------------------------------


def test_models_without_fakes_are_not_provable() -> None:
    graph = traced(Small(), IMAGES, "fx").graph_module
    scripted = nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3)))
    assert prove(scripted, graph, (IMAGES,)).difference == (
        "not provable: the model holds TorchScript, which runs real tensors"
    )
    lazy = nn.Sequential(nn.LazyConv2d(4, 3))
    assert prove(lazy, graph, (IMAGES,)).difference == (
        "not provable: the model has lazy layers without weights; run one forward first"
    )
    model = Small()
    model.rows = (each for each in "abc")
    assert prove(model, graph, (IMAGES,)).difference == (
        "not provable: the model can't be copied: cannot pickle 'generator' object"
    )


def test_parameters_that_the_model_does_not_hold_are_not_provable() -> None:
    loose = nn.Parameter(torch.ones(CHANNELS, 1, 1))

    class Loose(Small):
        def between(self, maps: Tensor) -> Tensor:
            return maps * loose

    model = Loose()
    graph = traced(Small(), IMAGES, "fx").graph_module
    proof = prove(model, graph, (IMAGES,))
    assert proof.difference.startswith("not provable: a tensor of (4, 1, 1) is not read from")
    assert loose.grad is None
