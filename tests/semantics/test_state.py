"""What the corpus can tell apart."""

from __future__ import annotations

import itertools
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from semantics.skeleton import Small
from semantics.state import attributes, difference, everything, freeze, holds_graph


class Holder:
    def __init__(self) -> None:
        self.inner = [0]


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "a list": (lambda: [1, [2]], lambda value: value[1].append(3)),
    "a dict": (lambda: {"a": {"b": 1}}, lambda value: value["a"].update(b=2)),
    "a deque": (lambda: deque([1], maxlen=2), lambda value: value.append(2)),
    "a counter": (lambda: Counter(a=1), lambda value: value.update("a")),
    "a set": (lambda: {1}, lambda value: value.add(2)),
    "the order of a dict": (lambda: OrderedDict(a=1, b=2), lambda value: value.move_to_end("a")),
    "a cycle": (lambda: itertools.cycle([1, 2]), next),
    "a count": (lambda: itertools.count(), next),
    "an object": (Holder, lambda value: value.inner.append(1)),
    "a tensor in place": (lambda: torch.zeros(2), lambda value: value.add_(1)),
    "a tensor in a list": (lambda: [torch.zeros(2)], lambda value: value[0].add_(1)),
    "whether it needs a gradient": (lambda: torch.zeros(2), lambda value: value.requires_grad_()),
    "a module outside the registry": (lambda: [Small()], lambda value: value[0].norm.eval()),
    "a numpy array": (lambda: np.zeros(2), lambda value: value.fill(1)),
    "torch's generator": (torch.Generator, lambda value: torch.rand(1, generator=value)),
    "Python's generator": (lambda: random.Random(0), lambda value: value.random()),
    "numpy's generator": (lambda: np.random.default_rng(0), lambda value: value.random()),
    "numpy's old generator": (lambda: np.random.RandomState(0), lambda value: value.rand()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_shows(name: str) -> None:
    make, change = CHANGES[name]
    value = make()
    before = freeze(value)
    assert difference(freeze(value), before) is None
    change(value)
    assert difference(freeze(value), before) is not None


def hook(module: nn.Module, inputs: Any, output: Any) -> None: ...


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.norm.eval(),
        lambda model: setattr(model, "note", 1),
        lambda model: setattr(model.body, "stride", (2, 2)),
        lambda model: model.body.register_forward_hook(hook),
        lambda model: model.stem.requires_grad_(False),
        lambda model: model.norm.running_mean.add_(1),
        lambda model: setattr(model, "norm", nn.Identity()),
        lambda model: model.register_buffer("more", torch.zeros(1)),
        lambda model: setattr(model.stem.weight, "grad", torch.zeros_like(model.stem.weight)),
        lambda model: random.random(),
        lambda model: np.random.rand(),
        lambda model: torch.rand(1),
    ],
)
def test_a_change_of_a_model_or_of_the_world_shows(change: Callable[[nn.Module], object]) -> None:
    model = Small()
    before = everything(model)
    assert difference(everything(model), before) is None
    change(model)
    assert difference(everything(model), before) is not None


def test_hooks_are_compared_without_their_numbers() -> None:
    first, second = Small(), Small()
    first.body.register_forward_hook(hook)
    second.body.register_forward_hook(hook)
    assert difference(attributes(first), attributes(second)) is None


def test_what_holds_itself_is_frozen_once() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert difference(freeze(value), freeze(value)) is None


def test_values_may_be_off_by_the_tolerance() -> None:
    right, ours = freeze(torch.tensor([1.0, 100.0])), freeze(torch.tensor([1.001, 100.0]))
    assert difference(ours, right, 1e-4) is None
    assert difference(ours, right, 1e-6) == ": off by 0.001 of 1e+02"
    assert difference(ours, right) is not None


def test_not_a_number_is_itself() -> None:
    assert difference(freeze(torch.tensor(float("nan"))), freeze(torch.tensor(float("nan")))) is None
    assert difference(freeze(float("nan")), freeze(float("nan"))) is None


def test_where_two_differ_is_reported() -> None:
    assert difference(freeze({"a": [1, 2]}), freeze({"a": [1, 3]}), at="log") == "log.'a'.1: 2 for 3"


def test_what_belongs_to_a_graph() -> None:
    weight = torch.ones(1, requires_grad=True)
    assert holds_graph(freeze({"losses": [weight * 2]}))
    assert not holds_graph(freeze({"losses": [weight, weight.detach()]}))
