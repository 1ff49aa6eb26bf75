"""What a net in use is refused or warned of: sizes, shapes, modes, arguments that are something else."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lowmode_fx import (
    AgreementSchedule,
    BernoulliSchedule,
    LowModeConfig,
    LowModeModel,
    Mode,
    ModePair,
    PeriodicSchedule,
    build_pair,
)
from passes import PassError


class BySize(nn.Module):
    """Does more on large maps, which torch.fx can't trace and torch.export decides once."""

    def __init__(self, least: int = 4) -> None:
        super().__init__()
        self.least = least
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return (self.second(x) if x.shape[2] > self.least else x).mean((2, 3))


def net_of(model: nn.Module, schedule: Any = None, **options: Any) -> LowModeModel:
    pair = build_pair(model, torch.zeros(4, 3, 16, 16), LowModeConfig(pool_convs="all"))
    return LowModeModel(pair, schedule or PeriodicSchedule(2), **{"compile": False} | options).train()


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(2))


@pytest.fixture
def pair() -> ModePair:
    return build_pair(plain(), torch.zeros(4, 3, 16, 16))


def test_an_exported_graph_takes_the_size_it_was_made_for_alone() -> None:
    example = torch.zeros(4, 3, 16, 16)
    named = build_pair(BySize(), example, LowModeConfig(pool_convs="all"), front_end="export")
    net = LowModeModel(named, PeriodicSchedule(1), compile=False)
    net.run(Mode.FULL, torch.zeros(3, 3, 12, 12))  # full-mode is the model itself
    net.run(Mode.LOW, torch.zeros(3, 3, 16, 16))  # another batch is fine
    with pytest.raises(ValueError, match=r"the export graph of BySize is for 16×16 images only, but these are 12×12"):
        net.run(Mode.LOW, torch.zeros(4, 3, 12, 12))
    live = net_of(BySize(), PeriodicSchedule(1))
    assert live.pair.report.front_end == "export"
    live.run(Mode.LOW, torch.zeros(4, 3, 12, 12))  # where no graph was asked for, the model itself runs


def test_a_layer_that_small_images_leave_out_is_refused() -> None:
    with pytest.raises(PassError, match=r"low-mode has no gradient for second.bias, second.weight: "):
        net_of(BySize(least=10))


def test_a_traced_graph_takes_any_size() -> None:
    net = net_of(plain())
    for mode in (Mode.FULL, Mode.LOW):
        assert net.run(mode, torch.zeros(4, 3, 24, 24)).shape == (4, 4, (24 * 24) // (4 if mode is Mode.LOW else 1))


def test_a_second_shape_mismatch_in_a_row_is_reported_to_run_uncompiled() -> None:
    net = net_of(plain(), compile=True, compile_options={"backend": "eager"})
    usual, other = torch.zeros(4, 3, 16, 16), torch.zeros(2, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (usual, other, usual, other):  # a ragged last batch, epoch after epoch
            net.run(Mode.FULL, images)
    with pytest.warns(UserWarning, match=r"full-mode was compiled for images 4×3×16×16, .* slower, on 2×3×16×16"):
        net.run(Mode.FULL, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.run(Mode.FULL, other)


def test_a_batch_that_the_loader_drew_for_another_mode_is_reported(pair: ModePair) -> None:
    net = LowModeModel(pair, BernoulliSchedule(0.0), downsample_on="host", compile=False).train()
    with pytest.warns(UserWarning, match=r"the loader chose low-mode for step 0, but the schedule's is full-mode"):
        net(torch.zeros(4, 3, 8, 8))
    assert net.last_mode is Mode.LOW


def test_of_several_optimizers_one_counts(pair: ModePair) -> None:
    net = LowModeModel(pair, BernoulliSchedule(0.5), compile=False)
    first, second = (torch.optim.SGD(net.parameters(), lr=0.1) for _ in range(2))
    for optimizer in (first, second, second):
        net.attach(optimizer)
    for _ in range(3):  # both step together
        net(torch.zeros(4, 3, 16, 16))
        first.step()
        second.step()
    assert net.step == 3
    first.step()  # without a forward, as loading a state may take it
    assert net.step == 3


def test_an_optimizer_that_takes_the_attached_ones_place_counts(pair: ModePair) -> None:
    net = LowModeModel(pair, BernoulliSchedule(0.5), compile=False)
    net.attach(torch.optim.SGD(pair.model[0].parameters(), lr=0.1))
    later = torch.optim.SGD(pair.model[2].parameters(), lr=0.1)
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    for _ in range(3):
        net(torch.zeros(4, 3, 16, 16)).sum().backward()
        other.step()
        later.step()
    assert net.step == 3


def test_a_schedule_that_stands_still_is_reported(pair: ModePair) -> None:
    net = LowModeModel(pair, BernoulliSchedule(0.5), compile=False)
    net.attach(torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.warns(UserWarning, match="21 training forwards without a step on the model's weights"):
        for _ in range(21):
            net(torch.zeros(4, 3, 16, 16))


def test_forwards_without_gradients_are_full_and_count_nothing(pair: ModePair) -> None:
    net = LowModeModel(pair, BernoulliSchedule(1.0), compile=False)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        found = net(images)
    assert torch.equal(found, pair.model(images)) and (net.step, net.last_mode) == (0, None)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_net_recomputes_in_the_mode_of_its_first_forward(pair: ModePair, reentrant: bool) -> None:
    net = LowModeModel(pair, PeriodicSchedule(2), compile=False)
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    for mode in (Mode.FULL, Mode.LOW):
        expected = net.run(mode, images)
        (wanted,) = torch.autograd.grad(expected.square().sum(), pair.model[2].weight)
        pair.model.zero_grad()
        output = checkpoint(net, images, use_reentrant=reentrant)
        assert net.last_mode is mode and torch.equal(output, expected)
        output.square().sum().backward()
        torch.testing.assert_close(pair.model[2].weight.grad, wanted)
    assert net.step == 2


def test_a_schedule_that_never_measures_says_so_once() -> None:
    schedule = AgreementSchedule(every=100)
    assert schedule.mode(99, 0) is Mode.FULL
    with pytest.warns(UserWarning, match=r"has not measured in 100 steps, so all were full; call schedule.measure"):
        schedule.mode(100, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.mode(101, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet18", torch.zeros(2, 3, 16, 16)), "model='resnet18' is of type str; give an nn.Module"),
        ((plain(), torch.zeros(2, 3, 16, 16), {"ratio": 2}), "config is of type dict; give a LowModeConfig"),
        ((net_of(plain()), torch.zeros(2, 3, 16, 16)), "model is already a LowModeModel; give net.pair.model"),
    ],
)
def test_what_is_no_model_or_config(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        build_pair(*arguments)


def test_what_is_no_schedule(pair: ModePair) -> None:
    with pytest.raises(TypeError, match=r"schedule is of type float; .* such as BernoulliSchedule\(0.5\)"):
        LowModeModel(pair, 0.5)  # type: ignore[arg-type]


def test_smaller_maps_are_noted() -> None:
    segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
    note = "low-mode returns maps of 8×8 where full-mode returns 16×16; set restore_output=True to resize them"
    assert note in build_pair(segmenter, torch.zeros(2, 3, 16, 16)).report.notes
    restored = build_pair(segmenter, torch.zeros(2, 3, 16, 16), LowModeConfig(restore_output=True))
    assert not restored.report.notes


def test_a_batch_of_one_runs_in_full_mode_where_low_modes_maps_are_single_pixels() -> None:
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    pair = build_pair(model, torch.zeros(2, 3, 8, 8))
    assert any("3 has a 1×1 map in low-mode" in note for note in pair.report.notes)
    net = LowModeModel(pair, PeriodicSchedule(1), compile=False)
    with pytest.warns(UserWarning, match="a batch of 1 image has no batch statistics on low-mode's 1×1 maps"):
        net(torch.randn(1, 3, 8, 8))
    assert net.last_mode is Mode.FULL
    net(torch.randn(2, 3, 8, 8))
    assert net.last_mode is Mode.LOW


def test_a_batch_of_one_runs_in_low_mode_where_its_maps_are_larger() -> None:
    net = LowModeModel(build_pair(plain(), torch.zeros(2, 3, 16, 16)), PeriodicSchedule(1), compile=False)
    net(torch.randn(1, 3, 16, 16))
    assert net.last_mode is Mode.LOW
