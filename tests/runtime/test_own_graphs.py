"""Compiled code that makes CUDA graphs itself is not captured once more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowmode_fx import TrainStep
from lowmode_fx.runtime.captured.complaints import UncapturedWarning
from tests.runtime.recorder import Recorder
from tests.runtime.runs import SGD, Net

GRAPHS: list[dict[str, Any]] = [
    {"mode": "reduce-overhead"},
    {"mode": "max-autotune"},
    {"options": {"triton.cudagraphs": True}},
]
NO_GRAPHS: list[dict[str, Any]] = [{}, {"mode": "max-autotune-no-cudagraphs"}, {"backend": "eager"}]


def whole(options: dict[str, Any]) -> nn.Module:
    return torch.compile(Net(), **options)  # type: ignore[return-value]


def part(options: dict[str, Any]) -> nn.Module:
    net = Net()
    net.body = torch.compile(net.body, **options)  # type: ignore[assignment]
    return net


def in_place(options: dict[str, Any]) -> nn.Module:
    net = Net()
    net.body.compile(**options)
    return net


def inside(options: dict[str, Any]) -> nn.Module:
    return nn.Sequential(torch.compile(Net(), **options))  # type: ignore[arg-type]


def step_of(net: nn.Module, criterion: Any = F.cross_entropy) -> TrainStep:
    return TrainStep(net, criterion, SGD(net.parameters()), graphs=Recorder())


@pytest.mark.parametrize("place", [whole, part, in_place, inside])
@pytest.mark.parametrize("options", GRAPHS, ids=str)
def test_a_module_compiled_to_graphs_is_left_to_them(place: Any, options: dict[str, Any]) -> None:
    with pytest.warns(UncapturedWarning, match=r"makes CUDA graphs of the model itself; compile without mode='reduce"):
        step = step_of(place(options))
    assert step.uncaptured is not None


@pytest.mark.parametrize("place", [whole, part, in_place, inside])
@pytest.mark.parametrize("options", NO_GRAPHS, ids=str)
@pytest.mark.filterwarnings("error::lowmode_fx.UncapturedWarning")
def test_other_compiled_modules_are_captured(place: Any, options: dict[str, Any]) -> None:
    assert step_of(place(options)).uncaptured is None


@pytest.mark.filterwarnings("error::lowmode_fx.UncapturedWarning")
def test_a_module_of_which_a_compiled_one_was_made_is_captured() -> None:
    net = Net()
    torch.compile(net, mode="reduce-overhead")
    assert step_of(net).uncaptured is None


def test_the_backend_of_that_name_counts() -> None:
    with pytest.warns(UncapturedWarning, match="makes CUDA graphs of the model itself"):
        step_of(whole({"backend": "cudagraphs"}))


def test_a_criterion_compiled_to_graphs_is_told() -> None:
    with pytest.warns(UncapturedWarning, match="makes CUDA graphs of the criterion itself"):
        step_of(Net(), torch.compile(lambda outputs, labels: F.cross_entropy(outputs, labels), mode="reduce-overhead"))
