"""The steps that count are those that the weights took; where the schedule stands travels with the optimizer."""

from __future__ import annotations

import copy
import io
import types
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compiler_backends import RecordingBackend
from timm.optim import Lookahead
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor
from trainers import IMAGES, LABELS, SCHEDULE, assert_same, make, network, sgd

from lowmode_fx import (
    AgreementSchedule,
    BernoulliSchedule,
    LadderSchedule,
    LowModeConfig,
    LowModeModel,
    Mode,
    PeriodicSchedule,
    build_ladder,
)

pytestmark = pytest.mark.usefixtures("one_thread")
BATCH, TARGETS = IMAGES[:4], LABELS[:4]


def step(net: nn.Module, optimizer: Any, forwards: int = 1) -> list[str]:
    modes = []
    for _ in range(forwards):
        F.cross_entropy(net(BATCH), TARGETS).backward()
        modes.append(str(net.last_mode))
    optimizer.step()
    optimizer.zero_grad()
    return modes


def due(*steps: int) -> list[str]:
    return [SCHEDULE.mode(step, 0).value for step in steps]


class Sharp:
    """A wrapper that is no optimizer itself, around one that is."""

    def __init__(self, base_optimizer: Any) -> None:
        self.base_optimizer = base_optimizer


@pytest.mark.parametrize("wrap", [lambda inner: inner, Lookahead, Sharp, lambda inner: Sharp(Lookahead(inner))])
def test_wrappers_are_looked_through_and_the_state_goes_on(wrap: Any) -> None:
    net, inner = make(), sgd(network())
    inner = sgd(net)
    net.attach(wrap(inner))
    net.set_epoch(2)
    for _ in range(3):
        step(net, inner)
    state = inner.state_dict()
    other = make()
    theirs = sgd(other)
    other.attach(wrap(theirs))
    theirs.load_state_dict(state)
    assert (other.step, other.epoch) == (3, 2)
    # Not in the groups that train.
    assert not any(name.startswith("lowmode") for group in theirs.param_groups for name in group)


def test_a_state_that_is_loaded_before_attaching_is_reported_too() -> None:
    net = make()
    optimizer = sgd(net)
    net.attach(optimizer)
    step(net, optimizer)
    other = make()
    theirs = sgd(other)
    theirs.load_state_dict(optimizer.state_dict())
    other.attach(theirs)
    assert other.step == 1
    unattached = make()
    late = sgd(unattached)
    late.load_state_dict(optimizer.state_dict())
    with pytest.warns(
        UserWarning, match="the schedule's state was restored from the optimizer only after the first step; attach"
    ):
        step(unattached, late)
    assert unattached.step == 2


def test_the_state_is_plain_and_loads_without_us() -> None:
    net = make()
    optimizer = sgd(net)
    net.attach(optimizer)
    step(net, optimizer)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    plain = network()
    theirs = sgd(plain)
    theirs.load_state_dict(saved)
    F.cross_entropy(plain(BATCH), TARGETS).backward()
    theirs.step()


def test_decisions_of_a_schedule_travel_too() -> None:
    net = make(AgreementSchedule(every=100, batches=2, p=0.5, seed=3))
    optimizer = sgd(net)
    net.attach(optimizer)
    net.schedule.load_state_dict({"steps": [0], "gains": [0.9], "costs": [0.3]})
    other = make(AgreementSchedule(every=100, batches=2, p=0.5, seed=3))
    theirs = sgd(other)
    other.attach(theirs)
    theirs.load_state_dict(optimizer.state_dict())
    assert other.schedule.state_dict() == net.schedule.state_dict()


def test_two_nets_of_one_optimizer_keep_their_own_steps() -> None:
    first, second = make(), make()
    both = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
    first.attach(both)
    second.attach(both)
    first.load_schedule_state({"step": 5, "epoch": 1})
    second.load_schedule_state({"step": 7, "epoch": 2})
    state = both.state_dict()
    for net in (first, second):
        net.load_schedule_state({"step": 0, "epoch": 0})
    both.load_state_dict(state)
    assert (first.step, second.step) == (5, 7)


def test_torchs_distributed_checkpoint_keeps_it_and_its_made_up_step_is_none() -> None:
    net, other = make(), make()
    optimizer, theirs = sgd(net), sgd(other)
    net.attach(optimizer)
    other.attach(theirs)
    for _ in range(3):
        step(net, optimizer)
    weights, state = get_state_dict(net, optimizer)
    set_state_dict(other, theirs, model_state_dict=weights, optim_state_dict=state)
    assert other.step == 3
    assert_same(other.state_dict(), net.state_dict())


def test_a_resume_that_lost_the_schedule_says_so_once() -> None:
    plain, net = network(), make()
    theirs, optimizer = sgd(plain), sgd(net)
    F.cross_entropy(plain(BATCH), TARGETS).backward()
    theirs.step()
    net.attach(optimizer)
    optimizer.load_state_dict(theirs.state_dict())
    with pytest.warns(UserWarning, match="schedule starts at step 0") as told:
        step(net, optimizer)
        step(net, optimizer)
    assert len(told) == 1
    optimizer.load_state_dict(theirs.state_dict())
    net.load_schedule_state({"step": 0, "epoch": 0})  # where it stands was told
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(net, optimizer)


def test_a_forgotten_attach_is_reported_and_corrected() -> None:
    net = make()
    optimizer = sgd(net)
    with pytest.warns(UserWarning, match="2 training forwards before the first optimizer step counted as st"):
        step(net, optimizer, forwards=2)
    assert net.step == 1
    assert [mode for _ in range(3) for mode in step(net, optimizer, 2)] == due(1, 1, 2, 2, 3, 3)
    silent = make()
    theirs = sgd(silent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [mode for _ in range(4) for mode in step(silent, theirs)] == due(0, 1, 2, 3)


def test_closures_and_a_second_optimizer_take_one_step() -> None:
    net = make(PeriodicSchedule(2))
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3)
    net.attach(optimizer)
    modes: list[list[str]] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(BATCH), TARGETS)
        loss.backward()
        modes[-1].append(str(net.last_mode))
        return loss

    for _ in range(4):
        modes.append([])
        optimizer.step(closure)
    assert [set(each) for each in modes] == [{"full"}, {"low"}, {"full"}, {"low"}]
    head, body = sgd(net[8]), torch.optim.Adam(net[0].parameters())
    net(BATCH).sum().backward()
    head.step()
    body.step()
    assert net.step == 5


def test_drawing_a_graph_and_evaluating_are_no_steps() -> None:
    net = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, BATCH, check_trace=False)
    with torch.no_grad():
        net(BATCH)
    net.eval()(BATCH)
    assert net.step == 0 and net.train().training and net.last_mode is None


def test_summaries_and_drawings_by_others_are_no_steps(tmp_path: Any) -> None:
    summary = pytest.importorskip("torchinfo", reason="torchinfo is not installed").summary
    net = make(BernoulliSchedule(p=1.0))
    net.attach(sgd(net))
    for kind in ({}, {"mode": "train"}):
        ours, plain = (summary(each, BATCH.shape, verbose=0, **kind) for each in (net, network()))
        assert (ours.total_params, ours.total_mult_adds) == (plain.total_params, plain.total_mult_adds)
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensorboard.SummaryWriter(tmp_path).add_graph(net, BATCH)
    assert net.step == 0 and net.last_mode is None


# Copies --------------------------------------------------------------------------------------------------------------


def test_a_copy_runs_in_full_mode_and_counts_nothing_until_it_is_trained() -> None:
    net = make(BernoulliSchedule(p=1.0))
    copied, plain = copy.deepcopy(net), network()
    for _ in range(3):
        assert torch.equal(copied(BATCH), plain.train()(BATCH))  # with gradients, in train mode
    assert copied.is_copy and copied.step == 0 and not net.is_copy
    copied.attach(sgd(copied))
    copied(BATCH)
    assert copied.last_mode is Mode.LOW and not copied.is_copy
    late = copy.deepcopy(net)
    with pytest.warns(UserWarning, match="1 training forward before the first optimizer step ran in full-mode"):
        step(late, sgd(late))
    assert late.step == 1 and not late.is_copy


@pytest.mark.parametrize("frozen", [True, False])
def test_a_momentum_copy_whose_weights_an_optimizer_holds_is_not_trained_by_it(frozen: bool) -> None:
    """As ``self.parameters()`` of a module with both gives them; the copy's forward runs with gradients, detached."""
    net = make(BernoulliSchedule(p=1.0))
    copied = copy.deepcopy(net).requires_grad_(not frozen)
    optimizer = sgd(nn.ModuleList([net, copied]))
    net.attach(optimizer)
    for _ in range(3):
        (net(BATCH) - copied(BATCH).detach()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert copied.last_mode is Mode.FULL and net.last_mode is Mode.LOW
    assert copied.is_copy and copied.step == 0 and net.step == 3


def test_statistics_are_gathered_in_full_mode() -> None:
    net, plain = make(BernoulliSchedule(p=1.0)), network()
    averaged = AveragedModel(net)
    update_bn(IMAGES.split(8), averaged)
    update_bn(IMAGES.split(8), plain)
    assert_same(averaged.module.state_dict(), plain.state_dict())
    again = make(BernoulliSchedule(p=1.0))
    with again.full_mode():
        for _ in range(2):
            again(BATCH)
    plain = network()
    for _ in range(2):
        plain(BATCH)
    assert_same(again.state_dict(), plain.state_dict())
    assert again.step == 0


def test_a_copy_has_what_others_have_put_on_the_net() -> None:
    net = make()
    seen: list[nn.Module] = []
    net.register_forward_hook(lambda module, args, output: seen.append(module))
    forward = type(net).forward
    net.forward = types.MethodType(lambda self, *args: forward(self, *args) * 2, net)  # as Accelerate wraps it
    copied = copy.deepcopy(net).eval()
    assert torch.equal(copied(BATCH), 2 * network().eval()(BATCH)) and seen == [copied.pair.model]


# What else is the model's --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_net_is_computed_again_in_its_own_mode(reentrant: bool) -> None:
    net, plain = make(PeriodicSchedule(2)), make(PeriodicSchedule(2))
    images = [image.clone().requires_grad_() for image in IMAGES.split(8)]
    same = [images[0], images[0], *images]  # a batch may come again
    losses = [F.cross_entropy(checkpoint(net, image, use_reentrant=reentrant), LABELS[:8]) for image in same]
    sum(losses).backward()  # type: ignore[union-attr]
    sum(F.cross_entropy(plain(image), LABELS[:8]) for image in same).backward()  # type: ignore[union-attr]
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_users_compile_compiles_each_mode_once(nothing_compiled_yet: None) -> None:
    backend = RecordingBackend()
    net = make()
    compiled, optimizer = torch.compile(net, backend=backend), sgd(net)
    net.attach(optimizer)
    ours = [mode for _ in range(10) for mode in step(compiled, optimizer)]
    assert ours == due(*range(10)) and len(backend.graphs) == 2
    plain = network()
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(compiled.eval()(BATCH), plain.eval()(BATCH))


def test_of_a_ladder_too(nothing_compiled_yet: None) -> None:
    backend = RecordingBackend()
    configs = [LowModeConfig(ratio=2), LowModeConfig(ratio=4 / 3, kernel_ratio=1)]
    ladder = build_ladder(network(), torch.zeros(2, 3, 16, 16), configs)
    net = LowModeModel(ladder, LadderSchedule(epochs=(1, 1, 1)), compile=False).train()
    compiled, optimizer = torch.compile(net, backend=backend), sgd(net)
    net.attach(optimizer)
    for number in range(9):
        net.set_epoch(number % 3)
        step(compiled, optimizer)
    assert len(backend.graphs) == 3 and net.step == 9


class Own(nn.Module):
    """A model with its own ways of loading."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.known = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), 1
        self.told: list[Any] = []
        self.register_load_state_dict_post_hook(lambda module, keys: self.told.append(keys))

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images)).mean((2, 3))

    def get_extra_state(self) -> dict[str, int]:
        return {"known": self.known}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.known = state["known"]

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}old.")]:
            state[prefix + name.removeprefix(f"{prefix}old.")] = state.pop(name)
        super()._load_from_state_dict(state, prefix, *rest)


def test_inside_a_parent_it_loads_as_the_model_does() -> None:
    model = Own()
    parent = nn.Sequential(make(model=model))
    model.known = 5
    old = {name.replace("0.first", "0.old.first"): value for name, value in parent.state_dict().items()}
    model.known = 1
    assert not any(parent.load_state_dict(old, strict=True)) and model.known == 5 and len(model.told) == 1


def test_it_is_traced_and_subscripted_as_the_model() -> None:
    net = make(BernoulliSchedule(p=1.0))
    features = create_feature_extractor(net, ["3"])(BATCH)["3"]
    assert torch.equal(features, network()[:4](BATCH))
    assert net[0] is net.pair.model[0] and len(net) == 9 and [*net] == [*net.pair.model]


def test_schedules_and_configs_load_without_trust() -> None:
    values = {"schedule": SCHEDULE, "config": LowModeConfig(ratio=4 / 3), "mode": Mode.LOW, "all": PeriodicSchedule(2)}
    file = io.BytesIO()
    torch.save(values, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == values


def test_a_schedule_that_measures_loads_without_trust_too() -> None:
    schedule = AgreementSchedule(every=100, batches=2, p=0.5, seed=3)
    schedule.load_state_dict({"steps": [0], "gains": [0.9], "costs": [0.3]})
    file = io.BytesIO()
    torch.save({"schedule": schedule}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["schedule"]
    assert isinstance(loaded, AgreementSchedule) and vars(loaded) == vars(schedule)


def test_a_net_has_the_signature_of_its_model() -> None:
    import inspect

    net = make(model=Own())
    assert list(inspect.signature(net.forward).parameters) == ["images"]
    assert type(net).__name__ == "LowModeModel" and isinstance(net, LowModeModel)


# What can't be attached ----------------------------------------------------------------------------------------------


def test_what_is_no_optimizer_or_trains_other_weights_is_refused() -> None:
    net = make()
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer has none of the net's parameters; make it with"):
        net.attach(other)
    own = torch.optim.SGD(net.parameters(), lr=0.1)
    for wrong in (net, torch.optim.lr_scheduler.StepLR(own, 1)):
        with pytest.raises(TypeError, match=f"optimizer is of type {type(wrong).__name__}; give a torch.optim"):
            net.attach(wrong)


@pytest.mark.parametrize(("epoch", "error"), [(-1, ValueError), ("1", TypeError), (1.5, TypeError)])
def test_an_epoch_that_is_none_is_refused_where_it_is_set(epoch: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"epoch={epoch!r} is .*; give an int of at least 0"):
        make().set_epoch(epoch)


def test_an_epoch_that_begins_within_an_optimizer_step_is_told_if_it_changes_the_mode() -> None:
    net, optimizer = make_two(LadderSchedule((1, 1)))
    net.set_epoch(0)
    F.cross_entropy(net(BATCH), TARGETS).backward()
    net.set_epoch(1)
    told = "batches of one optimizer step ran in low-mode and in full-mode: epoch 1 began between them; end an epoch"
    with pytest.warns(UserWarning, match=told):
        assert step(net, optimizer) == ["full"]


@pytest.mark.parametrize("epochs", [(2, 1), (1, 1)])
def test_epochs_that_end_with_an_optimizer_step_or_keep_the_mode_are_not(epochs: tuple[int, int]) -> None:
    net, optimizer = make_two(LadderSchedule(epochs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.set_epoch(0)
        step(net, optimizer, forwards=2)
        if epochs == (2, 1):  # low-mode, too
            F.cross_entropy(net(BATCH), TARGETS).backward()
        net.set_epoch(1)
        step(net, optimizer, forwards=2)


def make_two(schedule: LadderSchedule) -> tuple[LowModeModel, torch.optim.Optimizer]:
    net = make(schedule)
    optimizer = sgd(net)
    net.attach(optimizer)
    return net, optimizer
