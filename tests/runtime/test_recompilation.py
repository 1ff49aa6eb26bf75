"""A mode that is compiled again, for the model was changed: told with its reason, and bounded."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from lowmode_fx import LowModeConfig, LowModeModel, Mode, PeriodicSchedule, build_ladder, build_pair
from lowmode_fx.runtime import recompilation
from lowmode_fx.runtime.recompilation import MOST

IMAGES = torch.randn(2, 3, 8, 8)


@pytest.fixture
def net() -> LowModeModel:
    torch.compiler.reset()
    counters.clear()
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))]
    pair = build_pair(nn.Sequential(*layers), IMAGES)
    return LowModeModel(pair, PeriodicSchedule(2), compile_options={"backend": "eager"}).train()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def both_modes(net: LowModeModel) -> None:
    for mode in (Mode.FULL, Mode.LOW):
        net.run(mode, IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda net: net.ladder.model[3].requires_grad_(False), r"requires_grad of the weights"),
        (lambda net: net.ladder.model[1].eval(), "train mode of the layers"),
        (lambda net: net.double(), "the model's dtype"),
        (lambda net: net.ladder.model.register_module("3", nn.Conv2d(4, 4, 3, padding=2)), "the layers of the model"),
    ],
)
def test_what_has_changed_is_reported(net: LowModeModel, change: object, told: str) -> None:
    both_modes(net)
    change(net)  # type: ignore[operator]
    images = IMAGES.to(next(net.parameters()).dtype)
    warning = rf"^full-mode was recompiled \(compilation 2\): {told} changed; .* after {MOST - 1} more the mode runs"
    with pytest.warns(UserWarning, match=warning):
        net.run(Mode.FULL, images)


@pytest.mark.parametrize("notices", [True, False])
def test_every_layer_that_is_unfrozen_trains(net: LowModeModel, monkeypatch: pytest.MonkeyPatch, notices: bool) -> None:
    """Also where compiled code does not ask which weights train: there the mode runs uncompiled, and says so."""
    monkeypatch.setattr(recompilation, "NOTICES_FREEZING", notices and recompilation.NOTICES_FREEZING)
    net.requires_grad_(False)
    both_modes(net)
    net.ladder.model[3].requires_grad_(True)
    for mode in (Mode.FULL, Mode.LOW):
        with pytest.warns(UserWarning, match=rf"{mode}-mode was (re)?compiled"):
            net.run(mode, IMAGES).sum().backward()
        assert net.ladder.model[3].weight.grad is not None
        net.zero_grad()


@pytest.mark.usefixtures("nothing_compiled_yet")
def test_low_modes_of_every_net_in_a_process_are_compiled(caplog: pytest.LogCaptureFixture) -> None:
    """Also those after the eighth, where dynamo's limit for one function is: each has a function of its own."""
    ran: list[int] = []
    nets: list[LowModeModel] = []

    def backend(graph: Any, example: Any) -> Any:
        def run(*args: Any) -> Any:
            ran.append(1)
            return graph.forward(*args)

        return run

    for number in range(5):
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
        ladder = build_ladder(model, IMAGES, [LowModeConfig(), LowModeConfig(kernel_ratio=1)])
        nets.append(LowModeModel(ladder, PeriodicSchedule(2), compile_options={"backend": backend}))
        for rung in ladder.rungs:
            before = len(ran)
            nets[-1].run(rung.mode, IMAGES).sum().backward()
            assert len(ran) == before + 1, f"{rung.mode} of net {number} ran uncompiled"
    assert "recompile_limit" not in caplog.text


class Counting(nn.Module):
    """Counts its calls in Python, of which two belong to a forward of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls, self.unread = nn.Conv2d(4, 4, 3, padding=1), 0, 0.0

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.conv(maps).relu() * (1.0 if self.calls < 5 else 0.5)


@pytest.mark.parametrize("compile", [True, ["1"]])
@pytest.mark.usefixtures("nothing_compiled_yet")
def test_a_count_in_python_is_named_and_ends_compilation(compile: Any, caplog: pytest.LogCaptureFixture) -> None:
    def train(compile: Any) -> tuple[nn.Module, list[str]]:
        torch.manual_seed(0)
        block = Counting()
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), block, block, nn.Conv2d(4, 4, 3, padding=1))
        options = {"backend": "eager"} if compile else None
        net = LowModeModel(build_pair(model, IMAGES), PeriodicSchedule(2), compile=compile, compile_options=options)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for step in range(12):
                block.unread = float(step)
                net(IMAGES).sum().backward()
        return net, [str(each.message) for each in found]

    net, told = train(compile)
    for mode in ("full", "low"):
        (first, second) = [each for each in told if each.startswith(mode)]
        assert first.startswith(f"{mode}-mode was recompiled (compilation 2): 1.calls changed; make such changes")
        assert second == (
            f"{mode}-mode runs uncompiled from now on: 1.calls changes from step to step, and compiled code is for one "
            "value; keep it in a tensor, such as a buffer, to compile this mode"
        )
    assert len(told) == 4 and "recompile_limit" not in caplog.text
    plain, _ = train(False)
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.skipif(not recompilation.NOTICES_FREEZING, reason="this torch compiles nothing again for that")
def test_layers_that_are_unfrozen_one_by_one_are_compiled_so_often_and_no_more(
    net: LowModeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 2
    monkeypatch.setattr(recompilation, "MOST", most)
    net.requires_grad_(False)
    both_modes(net)
    told = []
    for layer in list(net.ladder.model)[::-1]:
        layer.requires_grad_(True)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            both_modes(net)
            both_modes(net)
        told.append([str(each.message).split(" (")[0] for each in found])
        net(IMAGES).sum().backward()
        assert layer.weight.grad is not None  # trained, compiled or not
    assert told[:most] == [[f"{mode}-mode was recompiled" for mode in ("full", "low")]] * most
    assert not any(told[most:]) and graphs() == 2 + 2 * most
