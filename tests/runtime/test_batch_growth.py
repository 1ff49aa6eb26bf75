"""Batches that grow as images shrink: their sizes, and the learning rate that follows."""

from __future__ import annotations

import gc
import math
import warnings
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from lowmode_fx import (
    AgreementSchedule,
    Augmentation,
    BernoulliSchedule,
    DeviceLoader,
    LadderSchedule,
    LowModeConfig,
    LowModeModel,
    Mode,
    TrainStep,
    build_ladder,
    build_pair,
    cost_progress,
    host_loader,
)
from lowmode_fx.runtime.mode_batches import ModeBatchSampler
from tests.runtime.recorder import Recorder
from tests.runtime.runs import IMAGES, SGD, Net, batches

STEPS = 12


def pair_net(multiplier: Any = 2, rule: Any = "linear", seed: int = 3, **options: Any) -> LowModeModel:
    torch.manual_seed(0)
    pair = build_pair(Net(), torch.zeros(IMAGES))
    schedule = BernoulliSchedule(0.5, seed=seed)
    return LowModeModel(pair, schedule, batch_multiplier=multiplier, lr_rule=rule, compile=False, **options)


def ladder_net(multiplier: Any, schedule: Any = None) -> LowModeModel:
    torch.manual_seed(0)
    ladder = build_ladder(Net(), torch.zeros(IMAGES), [LowModeConfig(ratio=r, kernel_ratio=1) for r in (2, 4 / 3)])
    return LowModeModel(ladder, schedule or LadderSchedule((1, 1, 1)), batch_multiplier=multiplier, compile=False)


def grown(net: LowModeModel, count: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    """As many images for each step as its mode wants."""
    data = batches(count, size=8)
    sizes = [net.batch_size_in(net.mode_at(step, 0), 4) for step in range(count)]
    return [(images[:size], labels[:size]) for size, (images, labels) in zip(sizes, data, strict=True)]


def test_pixels_keep_the_memory_of_a_step() -> None:
    net = ladder_net("pixels")
    assert [net.batch_size_in(mode, 9) for mode in net.modes] == [36, 16, 9]  # of 12×12: 6×6, 9×9
    assert [net.rate_factor(mode) for mode in net.modes] == [4, 16 / 9, 1]
    assert [ladder_net({"r2": 3}).batch_size_in(mode, 5) for mode in net.modes] == [15, 5, 5]
    assert [ladder_net(1.5).batch_size_in(mode, 5) for mode in net.modes] == [7, 7, 5]


@pytest.mark.parametrize(("rule", "factor"), [("linear", 2.25), ("sqrt", 1.5), ("none", 1.0)])
def test_the_rule_of_the_rate(rule: str, factor: float) -> None:
    assert pair_net(2.25, rule).rate_factor(Mode.LOW) == factor


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"batch_multiplier=0\.5 is out of range; give a number of at least 1"):
        pair_net(0.5)
    with pytest.raises(ValueError, match="batch_multiplier='area' is unknown; give 'pixels', a number"):
        pair_net("area")
    with pytest.raises(ValueError, match="lr_rule='cubic' is unknown; give 'linear', 'sqrt' or 'none'"):
        pair_net(2, "cubic")
    with pytest.raises(ValueError, match="'r8'"):
        ladder_net({"r8": 2})
    with pytest.raises(ValueError, match="batch_multiplier=2 needs modes before AgreementSchedule decides them"):
        LowModeModel(pair_net().pair, AgreementSchedule(80), batch_multiplier=2)


def by_hand(factor: float) -> LowModeModel:
    """A loop that sets the rate of each step itself, on batches that grow twofold."""
    data, net = grown(pair_net(2)), pair_net(1)
    optimizer = SGD(net.parameters())
    net.attach(optimizer)
    torch.manual_seed(5)
    for step, (images, labels) in enumerate(data):
        optimizer.param_groups[0]["lr"] = 0.125 / (1 + step) * (1 if net.mode is Mode.FULL else factor)
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net


def same(one: LowModeModel, other: LowModeModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("rule", "factor"), [("linear", 2.0), ("sqrt", math.sqrt(2)), ("none", 1.0)])
def test_a_loop_of_ones_own_steps_at_the_scaled_rate_and_sees_its_own(rule: str, factor: float) -> None:
    net = pair_net(2, rule)
    optimizer = SGD(net.parameters())
    net.attach(optimizer)
    torch.manual_seed(5)
    for step, (images, labels) in enumerate(grown(net)):
        optimizer.param_groups[0]["lr"] = 0.125 / (1 + step)
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert optimizer.param_groups[0]["lr"] == 0.125 / (1 + step)
    assert same(net, by_hand(factor))
    assert same(net, by_hand(1.0)) == (rule == "none")


@pytest.mark.parametrize("outside", [False, True], ids=["captured", "optimizer outside"])
@pytest.mark.filterwarnings("ignore:the optimizer step runs in Python")
def test_captured_steps_read_the_scaled_rate(outside: bool) -> None:
    make = partial(torch.optim.SGD, lr=0.125, momentum=0.9, weight_decay=2**-10, fused=None if outside else True)

    def train(graphs: Recorder | None) -> tuple[LowModeModel, TrainStep]:
        net = pair_net(2)  # a factor that float32 holds exactly
        step = TrainStep(net, F.cross_entropy, optimizer := make(net.parameters()), graphs=graphs)
        torch.manual_seed(5)
        for place, batch in enumerate(grown(net, 20)):
            optimizer.param_groups[0]["lr"] = 2.0 ** -(3 + place // 7)
            step(*batch)
            assert optimizer.param_groups[0]["lr"] == 2.0 ** -(3 + place // 7)
        return net, step

    recorder = Recorder()
    (net, step), (loop, _) = train(recorder), train(None)
    assert same(net, loop)
    assert (step.captures, recorder.replays, step.uncaptured) == (2, 20 - 4, None)


def test_a_rate_in_a_tensor_is_scaled_too() -> None:
    make = partial(torch.optim.AdamW, lr=torch.tensor(2.0**-7), fused=True)
    ends = []
    for graphs in (Recorder(), None):
        net = pair_net(4, "sqrt")
        step = TrainStep(net, F.cross_entropy, optimizer := make(net.parameters()), graphs=graphs)
        rate = optimizer.param_groups[0]["lr"]
        torch.manual_seed(5)
        for batch in grown(net):
            step(*batch)
            assert optimizer.param_groups[0]["lr"] is rate and rate == 2.0**-7
        ends.append(net)
    assert same(*ends)


def test_a_step_that_breaks_off_leaves_no_scaled_rate() -> None:
    net = pair_net(2)
    optimizer = SGD(net.parameters())
    net.attach(optimizer)
    images, labels = batches(1, size=8)[0]

    def broken() -> float:
        raise RuntimeError("out of memory")

    while net.mode is Mode.FULL:
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    net(images).sum().backward()
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(broken)
    net(images)
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_an_optimizer_of_another_model_keeps_its_rate() -> None:
    net, other = pair_net(2), torch.nn.Linear(2, 2)
    net.attach(SGD(net.parameters()))
    while net.mode is Mode.FULL:
        net.schedule = BernoulliSchedule(1.0)
    net(torch.zeros(IMAGES))
    optimizer = torch.optim.SGD(other.parameters(), lr=1.0)
    before = other.weight.detach().clone()
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(other.weight, before - 1)


# Loaders --------------------------------------------------------------------------------------------------------------


def device_loader(net: LowModeModel | None, batch_size: int = 4, **options: Any) -> DeviceLoader:
    images = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 3, 12, 12)
    return DeviceLoader(images, torch.arange(60), batch_size, True, net=net, seed=1, **options)


def test_an_epoch_on_the_device_is_one_pass_over_the_images() -> None:
    net = ladder_net("pixels")
    loader = device_loader(net)
    for epoch, sizes in enumerate([[16, 16, 16, 12], [7] * 8 + [4], [4] * 15]):
        net.set_epoch(epoch)
        loader.set_epoch(epoch)
        assert len(loader) == len(sizes)
        found = [labels for _, labels in loader]
        assert [len(each) for each in found] == sizes
        assert sorted(torch.cat(found).tolist()) == list(range(60))
    net.set_epoch(0)
    whole = device_loader(net, drop_last=True)
    assert [len(labels) for _, labels in whole] == [16, 16, 16]
    with pytest.raises(ValueError, match="batch_multiplier makes r2-mode's batch 80 of 60 images"):
        device_loader(net, batch_size=20, drop_last=True)


def test_a_picture_is_the_same_in_a_batch_of_any_size() -> None:
    images = torch.randint(0, 256, (24, 3, 12, 12), dtype=torch.uint8)
    options: dict[str, Any] = {"augmentation": Augmentation(shift=2, flip=True), "seed": 1}
    pictures = []
    for net in (None, ladder_net("pixels")):
        loader = DeviceLoader(images, torch.arange(24), 5, True, net=net, **options)
        found, labels = (torch.cat(each) for each in zip(*loader, strict=True))
        pictures.append(found[labels.argsort()])
    assert torch.equal(*pictures)


def test_an_epoch_that_goes_on_has_the_rest_of_its_batches() -> None:
    net = pair_net(2.5)
    optimizer = SGD(net.parameters())
    net.attach(optimizer)
    loader = device_loader(net)
    whole = [labels.tolist() for _, labels in loader]
    assert len({len(each) for each in whole[:-1]}) == 2
    for (images, labels), _ in zip(device_loader(net), range(3), strict=False):
        F.cross_entropy(net(images), labels % 5).backward()
        optimizer.step()
    again = device_loader(net)
    again.load_state_dict({"epoch": 0, "step": 3, "images": sum(map(len, whole[:3]))})
    assert [labels.tolist() for _, labels in again] == whole[3:]
    part = device_loader(net)
    next(iter(part))
    assert part.state_dict()["images"] == len(next(iter(device_loader(net)))[1])


@pytest.mark.parametrize("host", [False, True])
def test_a_data_loader_has_batches_that_grow(host: bool) -> None:
    net = ladder_net("pixels")
    net.downsample_on = "host" if host else "device"
    dataset = TensorDataset(torch.zeros(60, 3, 12, 12), torch.arange(60))
    if host:
        loader: Any = host_loader(dataset, net, 4, shuffle=True)
    else:
        loader = DataLoader(dataset, batch_sampler=ModeBatchSampler.for_net(net)(RandomSampler(dataset), 4))
    for epoch, (sizes, side) in enumerate([([16, 16, 16, 12], 6), ([7] * 8 + [4], 9), ([4] * 15, 12)]):
        net.set_epoch(epoch)
        assert len(loader) == len(sizes)
        found = list(loader)
        assert [len(labels) for _, labels in found] == sizes
        assert {images.shape[-1] for images, _ in found} == {side if host else 12}
        assert sorted(torch.cat([labels for _, labels in found]).tolist()) == list(range(60))
    if host:
        with pytest.raises(ValueError, match="the net has a batch_multiplier; leave one out"):
            host_loader(dataset, net, batch_sampler=[[0, 1]])


def test_a_closure_steps_at_the_rate_of_its_own_forward() -> None:
    """The mode is chosen inside the optimizer's step, as under Lightning's automatic optimization."""
    net = pair_net(2)
    optimizer = SGD(net.parameters())
    net.attach(optimizer)
    torch.manual_seed(5)
    for step, (images, labels) in enumerate(grown(net)):
        optimizer.param_groups[0]["lr"] = 0.125 / (1 + step)

        def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            return loss

        if step % 2:
            optimizer.step(closure)
        else:
            optimizer.step(closure=closure)
        assert optimizer.param_groups[0]["lr"] == 0.125 / (1 + step)
    assert same(net, by_hand(2.0))


@pytest.mark.parametrize("graphs", [None, Recorder], ids=["loop", "captured"])
def test_without_a_loader_that_knows_the_sizes_rates_stay_as_they_are(graphs: Any) -> None:
    """Batches of one size at a multiplied rate would be another training."""
    data, ends = batches(STEPS, size=4), []
    for multiplier in (2, 1):
        net = pair_net(multiplier)
        step = TrainStep(net, F.cross_entropy, SGD(net.parameters()), graphs=graphs() if graphs else None)
        torch.manual_seed(5)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for batch in data:
                step(*batch)
        unsized = [each for each in told if "has no effect: no loader has asked the net" in str(each.message)]
        assert len(unsized) == (multiplier == 2)
        ends.append(net)
    assert same(*ends)


def test_only_the_step_that_follows_a_low_forward_is_scaled() -> None:
    """Not another net's over the same model, nor a plain one."""
    old = pair_net(2)
    optimizer = SGD(old.parameters())
    old.attach(optimizer)
    rates = []
    optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    rate = optimizer.param_groups[0]["lr"]

    def step(forward: Any, size: int = 4) -> None:
        images, labels = batches(1, size=size)[0]
        F.cross_entropy(forward(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    old.batch_size_in(Mode.LOW, 4)
    while not rates or old.last_mode is not Mode.LOW:
        step(old)
    assert rates[-1] == 2 * rate
    step(old.ladder.model)
    with old.full_mode():
        step(old)
    new = LowModeModel(old.pair, BernoulliSchedule(0.0), batch_multiplier=2, compile=False)
    new.attach(optimizer)
    step(new)
    assert rates[-3:] == [rate] * 3
    while old.last_mode is not Mode.LOW:
        step(old)
    fresh = SGD(new.parameters())
    fresh.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    F.cross_entropy(new(batches(1)[0][0]), batches(1)[0][1]).backward()
    fresh.step()
    assert rates[-1] == rate
    assert optimizer.param_groups[0]["lr"] == rate


def test_what_a_scheduler_writes_after_a_broken_step_stays() -> None:
    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise RuntimeError("broken")

    net = pair_net(2)
    net.schedule = BernoulliSchedule(1.0)
    net.batch_size_in(Mode.LOW, 4)
    optimizer = Broken(net.parameters(), lr=0.5)
    net.attach(optimizer)
    images, labels = batches(1, size=8)[0]
    F.cross_entropy(net(images), labels).backward()
    with pytest.raises(RuntimeError, match="broken"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.25
    net(images)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_a_group_without_a_rate_is_left_alone() -> None:
    net = pair_net(2)
    net.schedule = BernoulliSchedule(1.0)
    net.batch_size_in(Mode.LOW, 4)
    optimizer = SGD(net.parameters())
    net.attach(optimizer)
    images, labels = batches(1, size=8)[0]
    F.cross_entropy(net(images), labels).backward()
    for group in optimizer.param_groups:
        group["lr"] = None
    with pytest.raises(TypeError) as failed:
        optimizer.step()
    assert "scaled_rates" not in "".join(map(str, failed.traceback)), "torch's SGD needs one, the scaling does not"


class _Shard:
    """As Accelerate's ``BatchSamplerShard``."""

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler, self.num_processes = batch_sampler, 2

    def __iter__(self) -> Any:
        yield from self.batch_sampler


@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_loader_is_no_shard(workers: int) -> None:
    net = ladder_net("pixels")
    dataset = TensorDataset(torch.zeros(60, 3, 12, 12), torch.zeros(60, dtype=torch.long))
    loader = DataLoader(dataset, batch_sampler=ModeBatchSampler.for_net(net)(range(60), 4), num_workers=workers)
    assert [len(images) for images, _ in loader] == [16, 16, 16, 12]


def test_shards_of_batches_that_grow_are_refused() -> None:
    net = ladder_net("pixels")
    with pytest.raises(ValueError, match="batch_multiplier='pixels' does not work in a _Shard, which shards or skips"):
        list(_Shard(ModeBatchSampler.for_net(net)(range(60), 4)))


def test_a_gradient_scaler_is_refused() -> None:
    """It skips steps, after which a loader's batches are for other modes than the net's."""
    net = pair_net(2)
    with pytest.raises(
        ValueError, match="batch_multiplier=2 needs each batch to be a step, and a gradient scaler skips"
    ):
        TrainStep(net, F.cross_entropy, SGD(net.parameters()), autocast=torch.float16)
    plain = pair_net(1)
    TrainStep(plain, F.cross_entropy, SGD(plain.parameters()), autocast=torch.float16)


def test_nets_that_are_collected_during_a_step_break_nothing() -> None:
    """torch runs through the hooks of all optimizers then, and fails if one of them is removed."""

    def collect(*_: Any) -> None:
        gc.collect()

    model = Net()
    optimizer = SGD(model.parameters())
    handles = [register_optimizer_step_pre_hook(collect), register_optimizer_step_post_hook(collect)]
    try:
        for multiplier in (1, 2):
            net = pair_net(multiplier)
            vars(net)["itself"] = net  # only the collector frees it
            del net
            model(torch.zeros(IMAGES)).sum().backward()
            optimizer.step()
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("asks", [False, True], ids=["planned", "asked"])
def test_plans_of_sizes_are_no_loader(asks: bool) -> None:
    """A rate or a report that counts with sizes has not made a batch larger."""
    net = pair_net(2)
    cost_progress(net, 2, 4)
    low = next(mode for mode in net.modes if mode is not Mode.FULL)
    assert net.planned_batch_size(low, 4) == 8
    if asks:
        assert net.batch_size_in(low, 4) == 8
    step = TrainStep(net, F.cross_entropy, SGD(net.parameters()))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for batch in batches(STEPS, size=4):
            step(*batch)
    assert any("has no effect: no loader has asked the net" in str(each.message) for each in told) == (not asks)
