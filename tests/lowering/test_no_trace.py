"""Building, counting and comparing gradients leave the model as it was, whatever its forward does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from habits import HABITS, Habit, Part
from torch import Tensor, nn

from lowmode_fx import ModePair, build_pair, count_flops, gradient_agreement
from lowmode_fx.counting.step import count_forward_macs, count_step_flops

SHAPE = (2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self, habit: Habit) -> None:
        super().__init__()
        self.part, self.conv, self.norm = Part(habit), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.part(x))).mean((2, 3))


def traits(model: nn.Module) -> Any:
    """What there is to see of the rest of the model."""
    state = {name: (id(value), value.tolist()) for name, value in model.state_dict(keep_vars=True).items()}
    return state, [module.training for module in model.modules()], sorted(vars(model)), sorted(vars(model.part))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("front_end", ["fx", "export"])
@pytest.mark.parametrize("name", HABITS)
def test_building_a_pair(name: str, front_end: Any, training: bool) -> None:
    model = Net(HABITS[name]).train(training)
    before, rest = HABITS[name].look(model.part), traits(model)
    with contextlib.suppress(ValueError):  # a refusal leaves no trace either
        build_pair(model, torch.zeros(SHAPE), front_end=front_end)
    assert HABITS[name].look(model.part) == before
    assert traits(model) == rest


def agreement(pair: ModePair) -> None:
    gradient_agreement(pair, (torch.ones(4, *SHAPE[1:]), torch.arange(4)), nn.functional.cross_entropy)


@pytest.mark.parametrize("measure", [count_flops, count_step_flops, count_forward_macs, agreement])
@pytest.mark.parametrize("name", HABITS)
def test_measuring_a_pair(name: str, measure: Callable[[ModePair], object]) -> None:
    """The part is called whole, so that its forward runs wherever the graphs do."""
    model = Net(HABITS[name])
    before, rest = HABITS[name].look(model.part), traits(model)
    pair = build_pair(model, torch.zeros(SHAPE), leaf_modules=[Part])
    assert (HABITS[name].look(model.part), traits(model)) == (before, rest)
    with contextlib.suppress(RuntimeError, ValueError, KeyError):  # what can't be counted, a frozen weight's gradient
        measure(pair)
    assert HABITS[name].look(model.part) == before
    assert traits(model) == rest
