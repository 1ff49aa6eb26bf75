"""A checkpoint of a net of other modes: what is the model's loads, and where the schedule goes on is told."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny import Tiny
from torch import nn

from lowmode_fx import LadderSchedule, LowModeConfig, LowModeModel, build_ladder

IMAGES, LABELS = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
TOLD = (
    "the optimizer's state is of a run with the modes low, full, and this net has r2, r4/3, full; it goes on from step "
    "4, epoch 1 of its own schedule: call net.load_schedule_state({'step': 0, 'epoch': 0}) to begin with its first mode"
)


def attached(ratios: Sequence[float]) -> tuple[LowModeModel, torch.optim.Optimizer]:
    configs = [LowModeConfig(ratio=ratio, kernel_ratio=1) for ratio in ratios]
    epochs = (1,) * (len(configs) + 1)
    net = LowModeModel(build_ladder(Tiny(), IMAGES, configs), LadderSchedule(epochs), compile=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.attach(optimizer)
    return net, optimizer


def trained(ratios: Sequence[float]) -> tuple[LowModeModel, torch.optim.Optimizer]:
    net, optimizer = attached(ratios)
    for epoch in range(2):
        net.set_epoch(epoch)
        for _ in range(2):
            nn.functional.cross_entropy(net(IMAGES), LABELS).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net, optimizer


def momentum(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [optimizer.state[each]["momentum_buffer"] for each in optimizer.param_groups[0]["params"]]


def test_the_optimizer_of_a_run_with_other_modes_is_told() -> None:
    (net, optimizer), (other, others) = trained([2]), attached([2, 4 / 3])
    with pytest.warns(UserWarning) as caught:
        others.load_state_dict(optimizer.state_dict())
    assert [str(each.message) for each in caught] == [TOLD]
    assert caught[0].filename == __file__
    assert (other.step, other.epoch) == (net.step, net.epoch) == (4, 1)
    assert all(map(torch.equal, momentum(others), momentum(optimizer)))
    other.load_schedule_state({"step": 0, "epoch": 0})  # as it says
    assert str(other.mode) == "r2"


@pytest.mark.parametrize("older", [False, True])
def test_the_same_modes_and_older_checkpoints_are_not_told(older: bool) -> None:
    (_, optimizer), (other, others) = trained([2]), attached([2])
    state: dict[str, Any] = optimizer.state_dict()
    assert state["param_groups"][0]["lowmode_modes"] == "low, full"
    if older:
        del state["param_groups"][0]["lowmode_modes"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        others.load_state_dict(state)
    assert (other.step, other.epoch) == (4, 1) and "lowmode_modes" not in others.param_groups[0]


def test_weights_and_statistics_are_the_models_whatever_the_modes() -> None:
    """Isolated norms keep nothing by mode: there is nothing in a state dict that another ladder can't take."""
    (net, _), (other, _) = trained([2]), attached([2, 4 / 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(net.state_dict(), strict=True)
    assert net.state_dict().keys() == Tiny().state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    assert not torch.equal(net.state_dict()["blocks.0.running_mean"], Tiny().state_dict()["blocks.0.running_mean"])
