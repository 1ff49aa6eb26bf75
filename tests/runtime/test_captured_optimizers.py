"""torch's optimizers whose state is on the device are part of a captured step."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import ASGD, Adadelta, Adagrad, Adamax, NAdam, RAdam, RMSprop, Rprop

from lowmode_fx.runtime.captured.complaints import UncapturedWarning
from lowmode_fx.train.optimizer import make_optimizer
from lowmode_fx.train.settings import TrainSettings
from tests.runtime.recorder import Recorder
from tests.runtime.runs import STEPS, Run, batches, same

Make = Callable[..., torch.optim.Optimizer]
ONE_BY_ONE = {"capturable": True, "foreach": False, "lr": 2**-7}
CAPTURED: dict[str, Make] = {
    "nadam": partial(NAdam, **ONE_BY_ONE),
    "nadam, decoupled": partial(NAdam, weight_decay=2**-6, decoupled_weight_decay=True, **ONE_BY_ONE),
    "radam": partial(RAdam, **ONE_BY_ONE),
    "radam, decoupled": partial(RAdam, weight_decay=2**-6, decoupled_weight_decay=True, **ONE_BY_ONE),
    "adamax": partial(Adamax, weight_decay=2**-6, **ONE_BY_ONE),
    "asgd": partial(ASGD, weight_decay=2**-6, t0=5, **ONE_BY_ONE),
    "rprop": partial(Rprop, **ONE_BY_ONE),
    "adagrad": partial(Adagrad, lr=2**-7, weight_decay=2**-6, fused=True),
}


@pytest.fixture
def cpu_counts_as_a_device() -> Iterator[None]:
    """torch refuses ``capturable`` on a CPU, which has no graphs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("adadelta", "adamax", "asgd", "nadam", "radam", "rmsprop", "rprop"):
            module = importlib.import_module(f"torch.optim.{name}")
            patch.setattr(module, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])
        yield


def rates(run: Run, place: int) -> None:
    for group in run.optimizer.param_groups:
        group["lr"] = 2.0 ** -(7 + place // 7 % 4)


@pytest.mark.usefixtures("cpu_counts_as_a_device")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", CAPTURED)
@pytest.mark.filterwarnings("error::lowmode_fx.UncapturedWarning")
def test_replays_leave_the_same_bits(name: str, accumulate: int) -> None:
    data = batches(2 * STEPS)
    ours = Run(CAPTURED[name], graphs=Recorder(), accumulate=accumulate, clip_grad_norm=0.5).train(data, rates)
    loop = Run(CAPTURED[name], capture=False, accumulate=accumulate, clip_grad_norm=0.5).train(data, rates)
    assert same(ours, loop)
    assert ours.step.optimizer_outside is None
    assert ours.recorder.replays == len(data) - 4 * accumulate
    constant = Run(CAPTURED[name], capture=False, accumulate=accumulate, clip_grad_norm=0.5).train(data)
    assert (constant.losses == loop.losses) == (name == "rprop"), "Rprop reads the rate only once"


@pytest.mark.usefixtures("cpu_counts_as_a_device")
@pytest.mark.parametrize("kind", [NAdam, RAdam, Adamax, ASGD, Adadelta, Rprop, RMSprop])
def test_rates_in_tensors_leave_the_same_bits_for_all_tensors_at_once(kind: type[torch.optim.Optimizer]) -> None:
    """As they step on a GPU; on a CPU torch then reads the rate in Python, so that no recording shows it."""

    def train(in_tensor: bool) -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        optimizer: Any = kind(net.parameters(), lr=2**-7, capturable=True, foreach=True)
        rate = torch.zeros(())
        for place in range(20):
            rate.fill_(2.0 ** -(7 + place // 7))
            optimizer.param_groups[0]["lr"] = rate if in_tensor else rate.item()
            net(torch.randn(4, 6)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return net

    assert all(map(torch.equal, train(True).parameters(), train(False).parameters()))


@pytest.mark.usefixtures("cpu_counts_as_a_device")
@pytest.mark.parametrize("kind", [Adadelta, RMSprop])
def test_those_that_read_the_rate_when_they_step_one_by_one_step_outside(kind: type[torch.optim.Optimizer]) -> None:
    make = partial(kind, **ONE_BY_ONE)
    with pytest.warns(UncapturedWarning, match="the optimizer waits for the device"):
        ours = Run(make, graphs=Recorder()).train(batches(), rates)
    assert same(ours, Run(make, capture=False).train(batches(), rates))
    assert ours.recorder.replays == STEPS - 4


@pytest.mark.parametrize("name", ["lamb", "adamp", "nadamw", "lion", "lookahead_sgd", "adan", "laprop"])
def test_timms_step_outside(name: str) -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        return create_optimizer_v2(list(parameters), name, 2**-7, 2**-6)

    with pytest.warns(UncapturedWarning, match="may count steps in Python|step hooks"):
        ours = Run(make, graphs=Recorder()).train(batches(), rates)
    assert same(ours, Run(make, capture=False).train(batches(), rates))
    assert ours.step.optimizer_outside is not None
    assert ours.recorder.replays == STEPS - 4


def test_a_state_that_brings_other_options_puts_the_optimizer_outside() -> None:
    def make(parameters: Any, **options: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=2**-7, **options)

    def between(run: Run, place: int) -> None:
        if place == STEPS:
            run.optimizer.load_state_dict(copy.deepcopy(plain.optimizer.state_dict()))

    plain = Run(make).train(batches())
    with pytest.warns(UncapturedWarning, match="Adam reads its learning rate in Python; make it with fused=True"):
        ours = Run(partial(make, fused=True), graphs=Recorder()).train(batches(2 * STEPS), between)
    assert same(ours, Run(partial(make, fused=True)).train(batches(2 * STEPS), between))
    assert ours.step.uncaptured is None


def test_counts_of_steps_on_the_host_are_told() -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        optimizer = Adagrad(parameters, lr=2**-7, fused=True)
        for state in optimizer.state.values():
            state["step"] = state["step"].to("meta")
        return optimizer

    with pytest.warns(UncapturedWarning, match="Adagrad has its counts of steps on the host; make it after moving"):
        Run(make, graphs=Recorder())


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("sgd", "fused"), ("momentum", "fused"), ("adam", "fused"), ("adamw", "fused"), ("adagrad", "fused"),
        ("nadam", "capturable"), ("radam", "capturable"), ("adamax", "capturable"), ("rmsprop", "capturable"),
        ("lamb", None), ("nadamw", None),
    ],
)  # fmt: skip
def test_train_makes_torchs_so_that_they_are_captured_on_cuda(name: str, option: str | None) -> None:
    model = timm.create_model("resnet18", num_classes=2)
    settings = TrainSettings(optimizer=name)
    on_cuda, on_cpu = (make_optimizer(model, settings, torch.device(kind)) for kind in ("cuda", "cpu"))
    assert type(on_cuda) is type(on_cpu)
    for ours, plain in zip(on_cuda.param_groups, on_cpu.param_groups, strict=True):
        changed = {key for key in plain if key != "params" and ours[key] != plain[key]}
        assert changed == ({option} if option else set())
        assert option is None or (ours[option], bool(plain[option])) == (True, False)


def test_train_leaves_optimizers_of_shards_as_they_are() -> None:
    model = timm.create_model("resnet18", num_classes=2)
    made = make_optimizer(model, TrainSettings(optimizer="adamw", fsdp=True), torch.device("cuda"))
    assert not any(group["fused"] for group in made.param_groups)
