"""``LowModeModel``: the mode of each step, the graphs that run, checkpoints, and two compilations in all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compiler_backends import RecordingBackend
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from lowmode_fx import BernoulliSchedule, LowModeConfig, LowModeModel, Mode, ModePair, PeriodicSchedule, build_pair

FULL, LOW = Mode.FULL, Mode.LOW
IMAGES = (4, 3, 16, 16)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.body, self.act = nn.Conv2d(4, 4, 3, padding=1), BatchNormAct2d(4)
        self.drop, self.fc = nn.Dropout(0.25), nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.body(self.norm(self.stem(x)))) * self.scale
        return self.fc(self.drop(x.mean((2, 3))))


@pytest.fixture
def pair() -> ModePair:
    torch.manual_seed(0)
    return build_pair(Tiny(), torch.zeros(IMAGES))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(IMAGES, generator=torch.Generator().manual_seed(1))


def eager(pair: ModePair, schedule: Any = None) -> LowModeModel:
    return LowModeModel(pair, schedule or PeriodicSchedule(2), compile=False)


def modes_that_ran(net: LowModeModel, monkeypatch: pytest.MonkeyPatch) -> list[Mode]:
    """Filled with the mode of every forward from now on, by the size of the images that the model itself sees."""
    ran: list[Mode] = []
    net.pair.model.stem.register_forward_pre_hook(
        lambda module, args: ran.append(FULL if args[0].shape[-1] == IMAGES[-1] else LOW)
    )
    return ran


# The mode of a step --------------------------------------------------------------------------------------------------


def test_each_forward_is_a_step_in_the_mode_of_the_schedule(
    pair: ModePair, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = BernoulliSchedule(p=0.5, seed=3)
    net = eager(pair, schedule)
    ran = modes_that_ran(net, monkeypatch)
    announced = []
    for step in range(12):
        assert net.step == step
        announced.append(net.mode)
        net(images)
        assert net.last_mode is announced[-1]
    assert ran == announced == [schedule.mode(step, 0) for step in range(12)]
    assert set(ran) == {FULL, LOW}


def test_the_given_epoch_counts(pair: ModePair, images: Tensor) -> None:
    net = eager(pair, PeriodicSchedule(period=1, low_steps=[0, 1]))
    modes = []
    for epoch in range(2):
        net.set_epoch(epoch)
        assert net.epoch == epoch
        for _ in range(2):
            net(images)
            modes.append(net.last_mode)
    assert modes == [FULL, FULL, LOW, LOW] and net.step == 4


def test_an_attached_optimizer_counts_the_steps(
    pair: ModePair, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = eager(pair, PeriodicSchedule(period=3, low_steps=2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.attach(optimizer)
    ran = modes_that_ran(net, monkeypatch)
    for step in range(3):
        for _ in range(2):  # gradients of two batches are accumulated in one mode
            assert net.step == step
            net(images).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert ran == [FULL, FULL, LOW, LOW, LOW, LOW] and net.step == 3


def test_neither_evaluation_nor_run_is_a_step(pair: ModePair, images: Tensor) -> None:
    net = eager(pair)
    net.run(LOW, images)
    net.eval()(images)
    assert (net.step, net.last_mode) == (0, None)


def test_the_schedules_state_goes_round(pair: ModePair, images: Tensor) -> None:
    net = eager(pair)
    net.set_epoch(7)
    for _ in range(3):
        net(images)
    state = net.schedule_state()
    assert state == {"step": 3, "epoch": 7}
    other = eager(pair)
    other.load_schedule_state(state)
    assert (other.step, other.epoch, other.mode) == (3, 7, LOW)
    with pytest.raises(KeyError, match="epoch"):
        other.load_schedule_state({"step": 1})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "state=None is of type NoneType; give what net.schedule_state() returned"),
        ({"step": "a", "epoch": 0}, "state['step']='a' is of type str; give an int of at least 0"),
    ],
)
def test_what_is_no_state_of_a_schedule(pair: ModePair, state: Any, message: str) -> None:
    net = eager(pair)
    with pytest.raises(TypeError) as error:
        net.load_schedule_state(state)
    assert str(error.value) == message and net.step == 0


# What runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gaussian", "bilinear", "area"])
def test_a_low_step_is_the_low_graph_on_downsampled_images(images: Tensor, method: Any) -> None:
    torch.manual_seed(0)
    pair = build_pair(Tiny(), torch.zeros(IMAGES), LowModeConfig(input_method=method))
    net = eager(pair, PeriodicSchedule(period=1))
    torch.manual_seed(1)
    found = net(images)
    torch.manual_seed(1)
    expected = pair.low(pair.downsample(images))
    assert net.last_mode is LOW and torch.equal(found, expected)
    torch.manual_seed(1)
    assert not torch.equal(found, pair.full(images))


def test_a_full_step_is_the_full_graph(pair: ModePair, images: Tensor) -> None:
    net = eager(pair, PeriodicSchedule(period=1, low_steps=0))
    torch.manual_seed(1)
    found = net(images)
    torch.manual_seed(1)
    assert net.last_mode is FULL and torch.equal(found, pair.full(images))


@pytest.mark.parametrize("compile", [False, True])
def test_evaluation_runs_the_original_module(
    pair: ModePair, images: Tensor, monkeypatch: pytest.MonkeyPatch, compile: bool
) -> None:
    def fail(x: Tensor) -> Tensor:
        raise AssertionError("a traced graph ran")

    net = LowModeModel(pair, PeriodicSchedule(1), compile=compile, compile_options={"backend": "eager"})
    for graph_module in (pair.full, pair.low):
        monkeypatch.setattr(graph_module, "forward", fail)
    calls: list[nn.Module] = []
    pair.model.register_forward_hook(lambda module, args, output: calls.append(module))
    net.eval()
    assert torch.equal(net(images), copy.deepcopy(pair.model)(images))
    assert calls.count(pair.model) == 1
    if not compile:
        net.train()(images)
        assert net.last_mode is LOW and calls.count(pair.model) == 2  # in low-mode too, the model's hooks run


def test_a_graph_that_was_asked_for_by_name_runs_low_steps(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = eager(build_pair(Tiny(), torch.zeros(IMAGES), front_end="fx"), PeriodicSchedule(1))
    monkeypatch.setattr(Tiny, "forward", lambda *_: pytest.fail("the model itself runs"))
    torch.manual_seed(1)
    found = net(images)
    torch.manual_seed(1)
    assert torch.equal(found, net.pair.low(net.pair.downsample(images)))


def test_a_graph_is_proven_again_where_the_model_has_changed(images: Tensor) -> None:
    net = eager(build_pair(Tiny(), torch.zeros(IMAGES), front_end="fx"), PeriodicSchedule(1))
    net(images)
    handle = net.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(ValueError, match=r"the fx graph of Tiny does not train as the model does: output: aten\.mul"):
        net(images)
    handle.remove()
    net(images)


def test_low_steps_leave_what_evaluation_uses_alone(pair: ModePair, images: Tensor) -> None:
    net = eager(pair, PeriodicSchedule(period=1))
    before = net.eval()(images)
    net.train()(images)
    assert torch.equal(net.eval()(images), before)


# Modes, names, dtypes ------------------------------------------------------------------------------------------------


def test_train_and_eval_reach_everything(pair: ModePair) -> None:
    net = eager(pair)
    everything = [net, *pair.model.modules()]
    assert net.eval() is net
    assert not any(module.training for module in everything)
    assert net.train() is net
    assert all(module.training for module in everything)


def test_a_model_in_eval_mode_stays_there_until_train(images: Tensor) -> None:
    net = eager(build_pair(Tiny().eval(), torch.zeros(IMAGES)))
    net(images)
    assert (net.training, net.last_mode) == (False, None)
    net.train()(images)
    assert net.last_mode is FULL


@pytest.mark.parametrize("compile", [False, True])
def test_checkpoints_are_the_models_own(pair: ModePair, images: Tensor, compile: bool) -> None:
    net = LowModeModel(pair, PeriodicSchedule(2), compile=compile, compile_options={"backend": "eager"})
    net(images)
    net(images)
    assert list(net.state_dict()) == list(Tiny().state_dict())
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in Tiny().named_parameters()]
    assert [name for name, _ in net.named_modules()] == [name for name, _ in Tiny().named_modules()]
    other = Tiny()
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other.body.weight, pair.model.body.weight)
    net.load_state_dict(Tiny().state_dict(), strict=True)
    assert not torch.equal(other.body.weight, pair.model.body.weight)


class WithExtraState(Tiny):
    def get_extra_state(self) -> dict[str, int]:
        return {"answer": 42}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.state = state


def test_extra_state_of_the_model_is_in_the_checkpoint() -> None:
    model = WithExtraState()
    net = eager(build_pair(model, torch.zeros(IMAGES)))
    assert list(net.state_dict()) == list(model.state_dict())


def test_a_change_of_dtype_keeps_one_set_of_tensors(pair: ModePair, images: Tensor) -> None:
    net = eager(pair)
    assert net.to(torch.float64) is net
    expected = {**dict(pair.model.named_parameters()), **dict(pair.model.named_buffers())}
    for module in (net, pair.full, pair.low):
        found = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        assert found.keys() == expected.keys()
        assert all(found[name] is tensor for name, tensor in expected.items())
    assert [net(images.double()).dtype for _ in range(2)] == [torch.float64] * 2


def test_an_assigned_state_dict_is_seen_by_both_graphs(pair: ModePair, images: Tensor) -> None:
    net = eager(pair)
    net.load_state_dict(Tiny().state_dict(), assign=True)
    for module in (pair.model, pair.full, pair.low):
        assert module.get_parameter("scale") is net.scale
    net.run(LOW, images).sum().backward()
    assert net.scale.grad is not None


@pytest.mark.parametrize(
    "compile",
    [
        False,
        pytest.param(True),
    ],
)
def test_a_deep_copy_trains_its_own_parameters(pair: ModePair, images: Tensor, compile: bool) -> None:
    net = LowModeModel(pair, PeriodicSchedule(2), compile=compile, compile_options={"backend": "eager"})
    copied = copy.deepcopy(net)
    for mode in (FULL, LOW):
        copied.run(mode, images).sum().backward()
        assert all(parameter.grad is None for parameter in net.parameters())
        assert all(parameter.grad is not None for parameter in copied.parameters())
        copied.zero_grad()


# Training ------------------------------------------------------------------------------------------------------------


def test_full_mode_training_is_plain_training_bit_for_bit() -> None:
    torch.manual_seed(0)
    plain = Tiny()
    model = copy.deepcopy(plain)
    net = eager(build_pair(model, torch.zeros(IMAGES)), BernoulliSchedule(p=0.0))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2) for m in (plain, net)]
    for step in range(3):
        losses = []
        for module, optimizer in zip((plain, net), optimizers, strict=True):
            torch.manual_seed(step)
            inputs, labels = torch.randn(IMAGES), torch.randint(5, (4,))
            loss = F.cross_entropy(module(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss)
        assert torch.equal(*losses)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    ours, theirs = (optimizer.state_dict()["state"] for optimizer in optimizers)
    assert ours.keys() == theirs.keys() and len(ours) == len(list(plain.parameters()))
    assert all(torch.equal(ours[index]["momentum_buffer"], theirs[index]["momentum_buffer"]) for index in ours)


def test_both_modes_train_the_same_parameters(pair: ModePair, images: Tensor) -> None:
    net = eager(pair)
    for mode in (FULL, LOW):
        net.zero_grad()
        net.run(mode, images).square().sum().backward()
        for name, parameter in pair.model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), (mode, name)


# Compilation ---------------------------------------------------------------------------------------------------------


def test_a_run_compiles_each_graph_once(pair: ModePair, nothing_compiled_yet: None) -> None:
    backend = RecordingBackend()
    net = LowModeModel(pair, PeriodicSchedule(2), compile_options={"backend": backend, "fullgraph": True})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.attach(optimizer)
    modes = []
    for epoch in range(3):
        net.train()
        net.set_epoch(epoch)
        for batch in (4, 4, 4, 4, 3):  # the last one is ragged, now in full-mode, now in low-mode
            net(torch.randn(batch, 3, 16, 16)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            modes.append((net.last_mode, batch))
        net.eval()
        with torch.no_grad():
            net(torch.randn(4, 3, 16, 16))
            net(torch.randn(7, 3, 16, 16))
    assert {(FULL, 4), (FULL, 3), (LOW, 4), (LOW, 3)} == set(modes)
    assert len(backend.graphs) == 2


def test_a_compiled_step_is_the_eager_step(pair: ModePair, images: Tensor, nothing_compiled_yet: None) -> None:
    pair.model.drop.p = 0.0
    net = LowModeModel(pair, PeriodicSchedule(2), compile_options={"backend": "eager"})
    before = copy.deepcopy(pair.model.state_dict())
    for mode in (FULL, LOW):
        gradients = []
        for module in (net, eager(pair)):
            pair.model.load_state_dict(before)
            pair.model.zero_grad()
            output = module.run(mode, images)
            output.square().sum().backward()
            gradients.append([output, *(parameter.grad.clone() for parameter in net.parameters())])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))


def test_a_compiled_low_step_leaves_running_statistics_alone(
    pair: ModePair, images: Tensor, nothing_compiled_yet: None
) -> None:
    net = LowModeModel(pair, PeriodicSchedule(1), compile_options={"backend": "eager"})
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net(images)
    assert net.last_mode is LOW
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_a_model_without_a_pair_is_named() -> None:
    with pytest.raises(TypeError, match=r"ladder is of type Linear; give a ModePair or Ladder, as from build_pair"):
        LowModeModel(nn.Linear(2, 2), BernoulliSchedule(p=0.5))  # type: ignore[arg-type]
