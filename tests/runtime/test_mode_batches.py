"""The mode of a batch is that of its rank's own step, whoever shards, skips or resumes the batches on the way."""

from __future__ import annotations

import types
from collections.abc import Iterator
from itertools import islice
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


class Bare:
    """Batches of growing sizes, by a sampler without a batch size."""

    def __init__(self, images: int, sizes: list[int]) -> None:
        self.images, self.sizes = images, sizes

    def __iter__(self) -> Iterator[list[int]]:
        at = 0
        for size in self.sizes:
            yield list(range(at, min(at + size, self.images)))
            at += size


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"batch_size": 5, "drop_last": True}, [5]),  # 5 batches of 5, and 2 images: whole rounds of 3 batches
        ({"batch_sampler": BatchSampler(SequentialSampler(range(27)), 5, True)}, [5]),
        ({"batch_sampler": Bare(27, [3, 3, 3, 6, 6, 5, 1])}, [3, 5, 1]),  # 17 images and 1 to split: one, and two
        ({"batch_sampler": Bare(27, [3, 3, 3, 6, 6, 4])}, [3, 6]),
        ({"batch_sampler": Bare(27, [3, 3, 3, 6, 4])}, [3, 4]),
        ({"batch_sampler": Bare(2, [1, 1])}, [1]),
    ],
)
def test_what_is_left_to_dispatch_splits_evenly(options: dict[str, Any], shares: list[int], first: int) -> None:
    """By itself Accelerate would fill it with images of the first step, whose mode may be another."""
    loaders = pytest.importorskip("accelerate.data_loader", reason="accelerate is not installed")
    loader = host_loader(torch.utils.data.Subset(DATA, range(27)), net(first), **options)
    kept = {name: getattr(loader, name) for name in ("batch_sampler", "collate_fn")}
    dispatched = loaders.DataLoaderDispatcher(loader.dataset, **kept)
    dispatched.state = types.SimpleNamespace(num_processes=3, process_index=0, device=torch.device("cpu"))
    sides = [SIDES[mode] for mode in due(len(shares), first=first)]
    assert [tuple(images.shape) for images, _ in dispatched] == [
        (share, 3, side, side) for share, side in zip(shares, sides, strict=True)
    ]


class Shards:
    """Each of three ranks takes every third batch."""

    num_processes = 3

    def __init__(self) -> None:
        self.batch_sampler = host_loader(torch.utils.data.Subset(DATA, range(27)), net(), 5).batch_sampler

    def batches(self, most: int, state: Any = None) -> tuple[list[list[int]], Any]:
        taken: Any = iter(self.batch_sampler)
        if state is not None:
            taken.load_state_dict(state)
        return [list(batch) for batch in islice(taken, most)], taken.state_dict()


def test_the_last_batch_is_filled_after_a_resume_too() -> None:
    whole, _ = Shards().batches(most=99)
    begun, state = Shards().batches(most=4)
    assert begun + Shards().batches(99, state)[0] == whole and [len(batch) for batch in whole] == [5] * 6


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
