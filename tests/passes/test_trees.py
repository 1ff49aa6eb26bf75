"""Trees: apart and together again, also containers that pytree was never told of."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch

from passes.trees import tree_flatten, tree_leaves, tree_map, tree_unflatten


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Plain:
    a: Any
    b: Any = None


@dataclass
class Output(dict[str, Any]):
    a: Any = None
    b: Any = None

    def __post_init__(self) -> None:
        self.update({name: value for name, value in (("a", self.a), ("b", self.b)) if value is not None})


class Items(dict[str, Any]):
    pass


@pytest.mark.parametrize(
    ("tree", "leaves"),
    [
        (1, [1]),
        (None, [None]),
        ((1, [2, {"c": 3}]), [1, 2, 3]),
        (Point(1, Plain(2, [3])), [1, 2, 3]),
        (Plain(Output(a=1), Items(x=2, y=(3, 4))), [1, None, 2, 3, 4]),
        (OrderedDict(b=1, a=Plain(2)), [1, 2, None]),
        (defaultdict(list, b=1), [1]),
        ([Plain((), {})], []),
        (Items(), []),
    ],
)
def test_apart_and_together(tree: Any, leaves: list[Any]) -> None:
    found, structure = tree_flatten(tree)
    assert found == leaves == tree_leaves(tree)
    again = tree_unflatten(found, structure)
    assert again == tree and type(again) is type(tree)
    assert tree_flatten(again)[1] == structure
    doubled = tree_map(lambda leaf: None if leaf is None else 2 * leaf, tree)
    assert tree_leaves(doubled) == [None if leaf is None else 2 * leaf for leaf in leaves]
    assert tree_flatten(doubled)[1] == structure


def test_items_and_attributes_of_an_output_agree() -> None:
    doubled = tree_map(lambda leaf: leaf and 2 * leaf, Output(a=3))
    assert (doubled.a, doubled["a"], doubled.b) == (6, 6, None) and "b" not in doubled


def test_structures_differ_where_containers_do() -> None:
    trees = [Plain(1, 2), Output(1, 2), Items(a=1, b=2), {"a": 1, "b": 2}, [1, 2], Plain([1], 2), Items(a=1, c=2)]
    structures = [tree_flatten(tree)[1] for tree in trees]
    assert all((a == b) is (i == j) for i, a in enumerate(structures) for j, b in enumerate(structures))


def test_what_is_no_container_is_a_leaf() -> None:
    @dataclass
    class Computed:
        a: int
        twice: int = field(init=False)

        def __post_init__(self) -> None:
            self.twice = 2 * self.a

    class Shape(tuple[int, ...]):
        pass

    for leaf in (Computed(1), Shape((1, 2)), UserDict(a=1), Plain, torch.ones(2), "text"):
        (found,), structure = tree_flatten(leaf)
        assert found is leaf and tree_unflatten([leaf], structure) is leaf
