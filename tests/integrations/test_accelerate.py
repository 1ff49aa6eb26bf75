"""Accelerate: fit, accumulation, bf16, state, averages, evaluation, compile, against the loop by hand."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compiler_backends import RecordingBackend
from torch.optim.swa_utils import AveragedModel, update_bn
from trainers import (
    DATA,
    IMAGES,
    LOW_FIRST,
    SCHEDULE,
    STEPS,
    accuracy,
    assert_same,
    cost_cosine,
    loader,
    make,
    network,
    plain_loop,
    sgd,
)

from lowmode_fx import BernoulliSchedule, LowModeModel, host_loader

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'lowmode-fx[accelerate]'")

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration

from lowmode_fx.integrations.accelerate import prepare

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Accelerate's state is the process's: each test has its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def train(accelerator: Accelerator, net: Any, optimizer: Any, batches: Any, epochs: int, first: int = 0) -> list[str]:
    runner = accelerator.unwrap_model(net, keep_torch_compile=False)
    modes = []
    for epoch in range(first, epochs):
        runner.set_epoch(epoch)
        for images, labels in batches:
            with accelerator.accumulate(net):
                accelerator.backward(F.cross_entropy(net(images), labels))
                modes.append(str(runner.last_mode))
                optimizer.step()
                optimizer.zero_grad()
    return modes


def start(net: LowModeModel | None = None, **options: Any) -> tuple[Any, ...]:
    accelerator = Accelerator(cpu=True, **options)
    net = net or make()
    return accelerator, *prepare(accelerator, net, sgd(net), loader())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_trains_as_the_loop_by_hand(accumulation: int) -> None:
    accelerator, net, optimizer, batches = start(gradient_accumulation_steps=accumulation)
    ours = make()
    assert train(accelerator, net, optimizer, batches, 2) == plain_loop(ours, 2, accumulation)
    assert net.step == 2 * STEPS // accumulation
    assert_same(net.state_dict(), ours.state_dict())


def test_a_rate_over_the_cost() -> None:
    net, ours = make(LOW_FIRST), make(LOW_FIRST)
    optimizer, accelerator = sgd(net), Accelerator(cpu=True)
    net.attach(optimizer)
    scheduler = cost_cosine(net, optimizer)
    prepared = accelerator.prepare(net, optimizer, loader(), scheduler)
    for epoch in range(2):
        net.set_epoch(epoch)
        for images, labels in prepared[2]:
            accelerator.backward(F.cross_entropy(prepared[0](images), labels))
            prepared[1].step()
            prepared[3].step()
            prepared[1].zero_grad()
    own = sgd(ours)
    plain_loop(ours, 2, optimizer=own, scheduler=cost_cosine(ours, own))
    assert_same(net.state_dict(), ours.state_dict())


def test_its_own_prepare_and_attach_do_the_same() -> None:
    accelerator, net = Accelerator(cpu=True), make()
    prepared, optimizer, batches = accelerator.prepare(net, sgd(net), loader())
    net.attach(optimizer)
    ours = make()
    assert train(accelerator, prepared, optimizer, batches, 2) == plain_loop(ours, 2)
    assert_same(net.state_dict(), ours.state_dict())


def test_bf16_and_a_copy_of_the_net() -> None:
    accelerator, net, optimizer, batches = start(mixed_precision="bf16")
    seen: list[torch.dtype] = []
    net[8].register_forward_hook(lambda layer, args, output: seen.append(output.dtype))
    assert train(accelerator, net, optimizer, batches, 2) == [SCHEDULE.mode(s, 0).value for s in range(2 * STEPS)]
    assert set(seen) == {torch.bfloat16}
    copied = copy.deepcopy(net).eval()
    with torch.no_grad():
        assert torch.equal(copied(IMAGES), net.eval()(IMAGES)) and copied(IMAGES).dtype == torch.float32
    assert set(seen) == {torch.bfloat16}
    assert list(accelerator.get_state_dict(net)) == list(network().state_dict())


def test_a_loaded_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    accelerator, net, optimizer, batches = start()
    modes = train(accelerator, net, optimizer, batches, 1)
    accelerator.save_state(str(tmp_path / "state"))
    modes += train(accelerator, net, optimizer, batches, 3, first=1)
    accelerator.free_memory()
    accelerator, other, optimizer, batches = start()
    accelerator.load_state(str(tmp_path / "state"))
    assert (other.step, other.epoch) == (STEPS, 0)
    assert modes[STEPS:] == train(accelerator, other, optimizer, batches, 3, first=1)
    assert_same(other.state_dict(), net.state_dict())
    accelerator.save_model(other, str(tmp_path / "model"))
    from safetensors.torch import load_file

    plain = network()
    plain.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"), strict=True)
    assert accuracy(plain) == accuracy(other)


def test_registering_the_net_and_attaching_nothing(tmp_path: Path) -> None:
    """What is registered saves weights alone; the optimizer has the schedule all the same."""
    accelerator, net = Accelerator(cpu=True), make()
    prepared, optimizer, batches = accelerator.prepare(net, sgd(net), loader())
    accelerator.register_for_checkpointing(net)
    train(accelerator, prepared, optimizer, batches, 1)
    accelerator.save_state(str(tmp_path))
    accelerator.free_memory()
    for attached in (True, False):
        accelerator, other = Accelerator(cpu=True), make()
        prepared, optimizer, batches = accelerator.prepare(other, sgd(other), loader())
        accelerator.register_for_checkpointing(other)
        if attached:
            other.attach(optimizer)
        accelerator.load_state(str(tmp_path))
        assert other.step == (STEPS if attached else 0)
        if not attached:
            with pytest.warns(UserWarning, match="restored from the optimizer only after the first step; attach"):
                train(accelerator, prepared, optimizer, batches, 1)
            assert other.step == 2 * STEPS
        accelerator.free_memory()


def test_a_resume_that_lost_the_schedule_says_so(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    plain, optimizer, batches = accelerator.prepare(model := network(), sgd(model), loader())
    for images, labels in batches:
        accelerator.backward(F.cross_entropy(plain(images), labels))
        optimizer.step()
    accelerator.save_state(str(tmp_path))
    accelerator.free_memory()
    accelerator, net, optimizer, batches = start()
    accelerator.load_state(str(tmp_path))
    with pytest.warns(UserWarning, match="the optimizer resumes but the schedule starts at step 0"):
        train(accelerator, net, optimizer, batches, 1)


@pytest.mark.filterwarnings("ignore:'set_vital'")
@pytest.mark.parametrize("on", ["device", "host"])
@pytest.mark.parametrize("stateful", [True, False])
def test_it_goes_on_in_the_middle_of_an_epoch(tmp_path: Path, on: Any, stateful: bool) -> None:
    if stateful:
        pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    stop = 6

    def begin() -> tuple[Any, ...]:
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_stateful_dataloader=stateful))
        net = make(downsample_on=on)
        batches = host_loader(DATA, net, 8) if on == "host" else loader()
        return accelerator, *prepare(accelerator, net, sgd(net), batches)

    def run(parts: Any, first: int = 0) -> list[str]:
        accelerator, net, optimizer, batches = parts
        modes = []
        for epoch in range(first // STEPS, 2):
            net.set_epoch(epoch)
            skipped = first % STEPS if epoch == first // STEPS and not stateful else 0
            for images, labels in accelerator.skip_first_batches(batches, skipped) if skipped else batches:
                accelerator.backward(F.cross_entropy(net(images), labels))
                modes.append(str(net.last_mode))
                optimizer.step()
                optimizer.zero_grad()
                if len(modes) == stop and not first:
                    accelerator.save_state(str(tmp_path))
        accelerator.free_memory()
        return modes

    whole, second = begin(), None
    modes = run(whole)
    second = begin()
    second[0].load_state(str(tmp_path))
    assert run(second, first=stop) == modes[stop:]
    assert_same(second[1].state_dict(), whole[1].state_dict())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_without_attaching_it_trains_and_what_is_missing_is_told(accumulation: int) -> None:
    accelerator, net = Accelerator(cpu=True, gradient_accumulation_steps=accumulation), make()
    prepared, optimizer, batches = accelerator.prepare(net, sgd(net), loader())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        modes = train(accelerator, prepared, optimizer, batches, 2)
    assert sum("net.attach" in str(each.message) for each in found) == accumulation - 1
    due = [SCHEDULE.mode(number // accumulation, 0).value for number in range(2 * STEPS)]
    assert modes[accumulation:] == due[accumulation:] and net.step == 2 * STEPS // accumulation


def test_averages_gather_statistics_in_full_mode() -> None:
    accelerator, net, optimizer, batches = start(make(BernoulliSchedule(p=1.0)))
    averaged = AveragedModel(accelerator.unwrap_model(net))
    train(accelerator, net, optimizer, batches, 1)
    averaged.update_parameters(net)
    update_bn(IMAGES.split(8), averaged)
    plain = network()
    plain.load_state_dict(averaged.module.state_dict())
    update_bn(IMAGES.split(8), plain)
    assert_same(dict(averaged.module.named_buffers()), dict(plain.named_buffers()))
    assert averaged.module.step == 0 and net.step == STEPS


def test_each_mode_is_compiled_once(nothing_compiled_yet: None) -> None:
    backend = RecordingBackend()
    accelerator, net = Accelerator(cpu=True), make()
    compiled, optimizer, batches = accelerator.prepare(torch.compile(net, backend=backend), sgd(net), loader())
    net.attach(optimizer)
    train(accelerator, compiled, optimizer, batches, 3)
    assert len(backend.graphs) == 2 and net.step == 3 * STEPS


def test_what_is_missing_is_reported() -> None:
    accelerator = Accelerator(cpu=True)
    with pytest.raises(ValueError, match=r"prepare got no optimizer: LowModeModel; give net and"):
        prepare(accelerator, make())
    with pytest.raises(ValueError, match="Sequential holds no LowModeModel"):
        prepare(accelerator, network(), sgd(network()))


def test_an_optimizer_of_other_weights_is_refused() -> None:
    """Made of a copy, or before the net: its steps would never count, nor train the net."""
    net = make()
    with pytest.raises(
        ValueError, match=r"^no optimizer has the net's parameters; make it with net\.parameters\(\), th"
    ):
        prepare(Accelerator(cpu=True), net, sgd(make()))
