"""What of a model voids a proof of its graph when it changes, and what does not."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lowmode_fx.lowering.model_state import model_state


class Progress:
    done = 0


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.register_buffer("centre", torch.zeros(4))
        self.rate, self.options, self.recent = 0.5, {"scales": [1, 2]}, deque([1])
        self.table, self.plain, self.progress = np.zeros(3), torch.zeros(3), Progress()

    def forward(self, images: Tensor) -> Tensor:
        self.centre.add_(1)
        return self.act(self.norm(self.body(images)))


def train(model: Model) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def evaluate(model: Model) -> None:
    model.eval()
    model.train()


SAME: dict[str, Callable[[Model], Any]] = {
    "nothing": lambda model: None,
    "a step": train,
    "an evaluation": evaluate,
    "loaded weights": lambda model: model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}),
    "a hook put and removed": lambda model: model.body.register_forward_hook(print).remove(),
}
CHANGED: dict[str, Callable[[Model], Any]] = {
    "a number": lambda model: setattr(model, "rate", 0.6),
    "a number of a layer": lambda model: setattr(model.norm, "momentum", 0.2),
    "an option": lambda model: model.options["scales"].append(3),
    "an attribute": lambda model: setattr(model, "fresh", None),
    "a queue": lambda model: model.recent.append(2),
    "an array": lambda model: model.table.__setitem__(1, 1.0),
    "a plain tensor written to": lambda model: model.plain.add_(1),
    "a plain tensor replaced": lambda model: setattr(model, "plain", torch.zeros(3)),
    "an object's attribute": lambda model: setattr(model.progress, "done", 1),
    "a hook": lambda model: model.body.register_forward_hook(print),
    "a forward": lambda model: setattr(model.norm, "forward", types.MethodType(lambda self, x: x, model.norm)),
    "a layer": lambda model: setattr(model, "act", nn.ReLU()),
    "a layer more": lambda model: model.add_module("last", nn.ReLU()),
    "another class": lambda model: setattr(model.act, "__class__", nn.Tanh),
    "a mode": lambda model: model.norm.eval(),
    "a frozen layer": lambda model: model.body.requires_grad_(False),
    "another type": lambda model: model.double(),
    "no bias": lambda model: setattr(model.body, "bias", None),
}


@pytest.mark.parametrize("name", SAME)
def test_what_leaves_a_proof_standing(name: str) -> None:
    model = Model()
    before = model_state(model)
    SAME[name](model)
    assert model_state(model) == before


@pytest.mark.parametrize("name", CHANGED)
def test_what_voids_a_proof(name: str) -> None:
    model = Model()
    before = model_state(model)
    CHANGED[name](model)
    assert model_state(model) != before
