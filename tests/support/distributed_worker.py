"""One rank of a job that ``test_distributed.py`` starts: ``torchrun distributed_worker.py CHECKS FOLDER``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from compiler_backends import RecordingBackend
from timm.utils import unwrap_model
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lowmode_fx import AgreementSchedule, BernoulliSchedule, LowModeModel, Mode, build_pair
from lowmode_fx.tuning.trials import progress_now

STEPS, BATCH = 8, 8
SCHEDULE = BernoulliSchedule(p=0.5, seed=1)


def network(norm: Any = lambda channels: nn.GroupNorm(2, channels)) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 5, 2, 2), norm(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def make(model: nn.Module | None = None, compile: Any = False, backend: Any = "eager") -> LowModeModel:
    model = model or network()
    example = torch.zeros(2, 3, 16, 16, dtype=next(model.parameters()).dtype)
    options = {"backend": backend} if compile else None
    return LowModeModel(build_pair(model, example), SCHEDULE, compile=compile, compile_options=options).train()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """The joined batch of a step, the same on every rank."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 3, 16, 16, generator=generator), torch.randint(0, 4, (BATCH,), generator=generator)


def mine(values: Tensor) -> Tensor:
    return values.chunk(dist.get_world_size())[dist.get_rank()]


def train(net: nn.Module, runner: LowModeModel, first: int = 0, last: int = STEPS, shared: bool = True) -> list[str]:
    """Steps ``first`` to ``last`` on this rank's share of each batch; the modes that ran."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    runner.attach(optimizer)
    modes = []
    kind = next(net.parameters()).dtype
    for step in range(first, last):
        images, labels = map(mine, batch(step)) if shared else batch(step)
        images = images.to(kind)
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        assert runner.last_mode is not None
        modes.append(runner.last_mode.value)
    return modes


def agreed(value: Any) -> None:
    """Every rank has the same."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    assert all(each == found[0] for each in found), found


def alone() -> LowModeModel:
    """What one process makes of the joined batches."""
    net = make()
    train(net, net, shared=False)
    return net


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6, msg=name)


def check_ddp(folder: Path) -> None:
    """DDP without find_unused_parameters: the modes, and the weights of one process on the joined batches."""
    runner = make()
    net = DistributedDataParallel(runner)
    modes = train(net, runner)
    agreed(modes)
    assert set(modes) == {mode.value for mode in (Mode.FULL, Mode.LOW)}
    expected = alone()
    same(unwrap_model(net).state_dict(), expected.state_dict())
    plain = network()
    plain.load_state_dict(net.module.state_dict(), strict=True)
    net.module.load_state_dict(plain.state_dict(), strict=True)


def check_gradients(folder: Path) -> None:
    """The averaged gradients of one low step are those of one process on the joined batch."""
    images, labels = batch(0)
    images = images.double()
    for mode in (Mode.FULL, Mode.LOW):
        runner, single = make().double(), make().double()
        runner.schedule = single.schedule = BernoulliSchedule(p=float(mode is Mode.LOW))
        net = DistributedDataParallel(runner)
        F.cross_entropy(net(mine(images)), mine(labels)).backward()
        F.cross_entropy(single(images), labels).backward()
        assert runner.last_mode is single.last_mode is mode
        for (name, ours), theirs in zip(runner.named_parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)


def check_fsdp(folder: Path) -> None:
    """FSDP2 on the whole net: sharded parameters, the same weights, the model's own keys."""
    runner = make()
    fully_shard(runner)
    agreed(train(runner, runner))
    state = get_model_state_dict(runner, options=StateDictOptions(full_state_dict=True))
    shards = [value.to_local().numel() for value in runner.parameters()]
    assert sum(shards) < sum(value.numel() for value in runner.parameters()), "nothing is sharded"
    if dist.get_rank() == 0:
        same(dict(state), alone().state_dict())
        network().load_state_dict(state, strict=True)


def check_layers(folder: Path) -> None:
    """FSDP2 layer by layer, before the build or after it: one process's weights to 1e-9 in float64."""
    expected = make(blocks().double())
    train(expected, expected, shared=False)
    whole = expected.state_dict()
    for first in (True, False):
        model = blocks().double()
        if first:
            shard(model)
            fully_shard(model)
        runner = make(model)
        if not first:
            shard(model)
            fully_shard(runner)
        modes = train(runner, runner)
        agreed(modes)
        assert set(modes) == {mode.value for mode in (Mode.FULL, Mode.LOW)}
        state = get_model_state_dict(runner, options=StateDictOptions(full_state_dict=True))
        if dist.get_rank() == 0:
            assert list(state) == list(whole)
            for name, value in whole.items():
                torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-9, msg=name)


def check_compiled_layers(folder: Path) -> None:
    """FSDP2 layer by layer with ``compile="blocks"``: one process's weights, and two equal layers compiled once."""
    expected = make(blocks().double())
    train(expected, expected, shared=False)
    backend = RecordingBackend()
    model = blocks().double()
    shard(model)
    fully_shard(model)
    runner = make(model, "blocks", backend)
    train(runner, runner)
    state = get_model_state_dict(runner, options=StateDictOptions(full_state_dict=True))
    assert len(backend.graphs) == 2 * 2, len(backend.graphs)
    if dist.get_rank() == 0:
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-9, msg=name)


def blocks() -> nn.Module:
    """Three blocks and a head."""
    torch.manual_seed(0)
    channels = [(3, 8), (8, 8), (8, 8)]
    parts = [nn.Sequential(nn.Conv2d(*each, 3, 1, 1), nn.GroupNorm(2, 8), nn.ReLU()) for each in channels]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def shard(model: nn.Module) -> None:
    for block in model.children():
        if isinstance(block, nn.Sequential):
            fully_shard(block)


def check_norms(folder: Path) -> None:
    """Ranks that keep their own running statistics leave them alone in low-mode; synchronised norms are paired."""
    runner = make(network(nn.BatchNorm2d))
    runner.schedule = BernoulliSchedule(p=1.0)
    before = {name: value.clone() for name, value in runner.named_buffers()}
    train(DistributedDataParallel(runner), runner, last=2)
    assert all(torch.equal(value, before[name]) for name, value in runner.named_buffers())
    if dist.get_rank() == 0:  # alone: what builds a pair must not wait for others
        pair = build_pair(nn.SyncBatchNorm.convert_sync_batchnorm(network(nn.BatchNorm2d)), torch.zeros(2, 3, 16, 16))
        assert len(pair.report.of("isolate_batchnorm").changes) == 2
        assert all(module.training for module in pair.model.modules())


def check_save(folder: Path) -> None:
    """Half of a run, saved by rank 0."""
    runner = make()
    modes = train(DistributedDataParallel(runner), runner, last=STEPS // 2)
    if dist.get_rank() == 0:
        torch.save(
            {"model": runner.state_dict(), "schedule": runner.schedule_state(), "modes": modes}, folder / "half.pt"
        )


def check_resume(folder: Path) -> None:
    """The other half, on however many ranks there are now: the modes go on as if nothing had happened."""
    saved = torch.load(folder / "half.pt", weights_only=True)
    runner = make()
    runner.load_state_dict(saved["model"], strict=True)
    runner.load_schedule_state(saved["schedule"])
    modes = saved["modes"] + train(DistributedDataParallel(runner), runner, first=STEPS // 2)
    agreed(modes)
    assert modes == [SCHEDULE.mode(step, 0).value for step in range(STEPS)]
    if dist.get_rank() == 0:
        (folder / "modes.json").write_text(json.dumps(modes))


def check_agreement(folder: Path) -> None:
    """What rank 0 measures decides for all: the others' batches, here of noise alone, don't count."""
    runner = make()
    schedule = AgreementSchedule(every=100, batches=2, p=0.5)
    runner.schedule = schedule
    images, labels = batch(dist.get_rank())
    seen = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    gain = schedule.measure(runner.pair, seen, F.cross_entropy, step=0)
    agreed((gain, schedule.decisions))
    if dist.get_rank() == 0:
        assert gain == progress_now(runner.pair, seen, F.cross_entropy, schedule.momentum).gain
    agreed(train(DistributedDataParallel(runner), runner))


def check_death(folder: Path) -> None:
    """A rank dies in the middle of a step; the others wait for it."""
    runner = make()
    net = DistributedDataParallel(runner)
    train(net, runner, last=2)
    if dist.get_rank() == 1:
        raise RuntimeError("the data of rank 1 is gone")
    train(net, runner, first=2)


def main() -> None:
    names, folder = sys.argv[1].split(","), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name in names:
        globals()[f"check_{name}"](folder)
        dist.barrier()
        if dist.get_rank() == 0:
            print(f"{name}: ok on {os.environ['WORLD_SIZE']} ranks", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
