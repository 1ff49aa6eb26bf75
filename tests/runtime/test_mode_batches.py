"""The mode of a batch is that of its rank's own step, whoever shards, skips or resumes the batches on the way."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from trainers import DATA, SCHEDULE, make

from lowmode_fx import LowModeModel, host_loader
from lowmode_fx.runtime.mode_batches import ModeList

SIDES = {"full": 16, "low": 8}


def net(step: int = 0) -> LowModeModel:
    made = make(downsample_on="host")
    made.load_schedule_state({"step": step, "epoch": 0})
    return made


def due(count: int, first: int = 0, accumulation: int = 1) -> list[str]:
    return [SCHEDULE.mode(first + number // accumulation, 0).value for number in range(count)]


def modes(batches: Any) -> list[str]:
    return [str(batch.mode) for batch in batches]


def test_it_is_a_batch_sampler_and_can_be_made_anew_by_its_class() -> None:
    sampler = host_loader(DATA, net(), 4).batch_sampler
    assert isinstance(sampler, BatchSampler)
    again = type(sampler)(SequentialSampler(range(6)), batch_size=2, drop_last=True)
    assert [list(batch) for batch in again] == [[0, 1], [2, 3], [4, 5]] and modes(again) == due(3)


def test_a_list_that_is_cut_keeps_its_mode() -> None:
    batch = next(iter(host_loader(DATA, net(), 4).batch_sampler))
    assert batch[1:3].mode is batch.mode is batch.__add__([9]).mode and isinstance(batch[0], int)
    assert isinstance(batch, ModeList)


def test_lightning_shards_the_sampler_inside() -> None:
    data = pytest.importorskip("lightning.pytorch.utilities.data", reason="lightning is not installed")
    loader = host_loader(DATA, net(), 4, accumulation=2)
    shard = torch.utils.data.DistributedSampler(DATA, num_replicas=2, rank=1, shuffle=False)
    made = data._update_dataloader(loader, shard)
    assert modes(made.batch_sampler) == due(4, accumulation=2)
    assert [batch[0].shape[-1] for batch in made] == [SIDES[mode] for mode in due(4, accumulation=2)]


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_accelerate_gives_all_ranks_one_mode(size: int, even: bool, split: bool) -> None:
    shards = pytest.importorskip("accelerate.data_loader", reason="accelerate is not installed")
    if split and size % 2:
        pytest.skip("batches that can't be split are refused")
    ranks, plain = [], []
    for rank in range(2):
        options = {"num_processes": 2, "process_index": rank, "split_batches": split, "even_batches": even}
        ranks.append(list(shards.BatchSamplerShard(host_loader(DATA, net(3), size).batch_sampler, **options)))
        plain.append(list(shards.BatchSamplerShard(BatchSampler(SequentialSampler(DATA), size, False), **options)))
    for ours, theirs in zip(ranks, plain, strict=True):
        assert [list(batch) for batch in ours] == theirs  # the very images that it would give
        assert modes(ours) == due(len(ours), first=3)


@pytest.mark.parametrize("images", [32, 31, 27])
@pytest.mark.parametrize(("split", "workers"), [(True, 0), (False, 0), (False, 1)])
def test_batches_that_one_rank_dispatches_to_all_have_one_mode(images: int, split: bool, workers: int) -> None:
    loaders = pytest.importorskip("accelerate.data_loader", reason="accelerate is not installed")
    data = torch.utils.data.Subset(DATA, range(images))
    loader = host_loader(data, net(3), 8 if split else 4, num_workers=workers)
    kept = {name: getattr(loader, name) for name in ("batch_sampler", "collate_fn", "num_workers")}
    dispatched = loaders.DataLoaderDispatcher(loader.dataset, split_batches=split, **kept)
    first_of_two = types.SimpleNamespace(num_processes=2, process_index=0, device=torch.device("cpu"))
    dispatched.state = first_of_two
    assert [tuple(batch.shape) for batch, _ in dispatched] == [(4, 3, SIDES[m], SIDES[m]) for m in due(4, first=3)]


def test_skipped_batches_are_not_counted() -> None:
    shards = pytest.importorskip("accelerate.data_loader", reason="accelerate is not installed")
    sampler = host_loader(DATA, net(step=2), 4).batch_sampler
    assert modes(shards.SkipBatchSampler(sampler, 2)) == due(6, first=2)
    sharded = shards.BatchSamplerShard(sampler, num_processes=2, process_index=1)
    assert modes(shards.SkipBatchSampler(sharded, 1)) == due(3, first=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_goes_on_in_the_middle_of_an_epoch(workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    options: dict[str, Any] = {"loader": stateful.StatefulDataLoader, "num_workers": workers}

    def order() -> Any:
        generator = torch.Generator().manual_seed(5)
        return stateful.sampler.RandomSampler(DATA, generator=generator)

    whole = [(images.shape[-1], labels) for images, labels in host_loader(DATA, net(), 4, sampler=order(), **options)]
    assert [side for side, _ in whole] == [SIDES[mode] for mode in due(8)]
    first = host_loader(DATA, net(), 4, sampler=order(), **options)
    batches = iter(first)
    for _ in range(3):
        next(batches)
    state = first.state_dict()
    second = host_loader(DATA, net(step=3), 4, sampler=order(), **options)
    second.load_state_dict(state)
    rest = [(images.shape[-1], labels) for images, labels in second]
    assert [side for side, _ in rest] == [side for side, _ in whole[3:]]
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(rest, whole[3:], strict=True))


def test_batches_that_lost_their_mode_are_reported() -> None:
    loader = host_loader(DATA, net(), 4)
    anew = DataLoader(loader.dataset, batch_sampler=[[0, 1]], collate_fn=loader.collate_fn)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a batch has lost the mode of its step"):
        next(iter(anew))
