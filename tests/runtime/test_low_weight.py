"""The weight of low steps' gradients: every gradient by that factor, in low-mode alone, and forwards untouched."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training import tiny_model

from lowmode_fx import BernoulliSchedule, LowModeModel, Mode, build_pair
from lowmode_fx.runtime.gradient_scale import scale_gradient

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6)


def net(p: float, weight: float, **options: Any) -> LowModeModel:
    pair = build_pair(tiny_model(dropout=0.0), torch.zeros(2, 3, 16, 16))
    return LowModeModel(pair, BernoulliSchedule(p), low_weight=weight, **{"compile": False, **options}).train()


def step(model: LowModeModel) -> tuple[Tensor, list[Tensor]]:
    outputs = model(IMAGES)
    F.cross_entropy(outputs, LABELS).backward()
    return outputs.detach(), [value.grad for value in model.parameters() if value.grad is not None]


def test_low_gradients_are_scaled_and_outputs_are_not() -> None:
    (plain, gradients), (weighted, scaled) = step(net(1.0, 1.0)), step(net(1.0, 0.25))
    assert torch.equal(plain, weighted)
    for before, after in zip(gradients, scaled, strict=True):
        assert torch.equal(0.25 * before, after)  # a power of two rounds nothing


def test_full_steps_are_not_touched() -> None:
    (plain, gradients), (weighted, same) = step(net(0.0, 1.0)), step(net(0.0, 0.25))
    assert torch.equal(plain, weighted)
    assert all(map(torch.equal, gradients, same))


def test_the_weight_is_copied_and_pickled() -> None:
    model = net(1.0, 0.25)
    expected = step(model)[1]
    for other in (copy.deepcopy(net(1.0, 0.25)), pickle.loads(pickle.dumps(net(1.0, 0.25)))):
        assert other.low_weight == 0.25
        other.attach(torch.optim.SGD(other.parameters(), lr=0.1))  # a deep copy trains from here on
        assert all(map(torch.equal, expected, step(other)[1]))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_makes_no_sense(weight: float) -> None:
    with pytest.raises(ValueError, match=r"low_weight=.* is out of range; give a number above 0"):
        net(1.0, weight)


def test_outputs_keep_their_structure() -> None:
    value = torch.ones(2, requires_grad=True)
    whole = {"out": value * 2, "list": [value * 3, 5], "fixed": torch.zeros(1)}
    scaled = scale_gradient(whole, 0.5)
    assert list(scaled) == ["out", "list", "fixed"] and scaled["list"][1] == 5
    assert scaled["fixed"] is whole["fixed"]
    (scaled["out"].sum() + scaled["list"][0].sum()).backward()
    assert value.grad is not None and value.grad.tolist() == [2.5, 2.5]
    assert scale_gradient(whole, 1) is whole


def test_under_an_outer_compile() -> None:
    model = net(1.0, 0.25)
    model.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    expected = step(net(1.0, 0.25))[1]
    outputs = torch.compile(model, backend="aot_eager")(IMAGES)
    F.cross_entropy(outputs, LABELS).backward()
    found = [value.grad for value in model.parameters() if value.grad is not None]
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_mode_is_the_one_that_ran() -> None:
    model = net(1.0, 0.5)
    step(model)
    assert model.last_mode is Mode.LOW
    assert isinstance(model, nn.Module)
