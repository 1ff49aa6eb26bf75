"""Copies ahead of their use: order, structure and number of batches stay, and no more are under way than was said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lowmode_fx import BernoulliSchedule, LowModeModel, Mode, PrefetchLoader, build_pair, host_loader
from lowmode_fx.loading.prefetch import _ahead


class Recorder:
    """In the place of a GPU: what is started and finished, and when."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def start(self, batch: Any) -> Any:
        self.events.append(f"start {batch}")
        return ("copy", batch)

    def finish(self, copy: Any) -> Any:
        kind, batch = copy
        assert kind == "copy"
        self.events.append(f"finish {batch}")
        return batch


def test_copies_are_started_ahead_of_their_use() -> None:
    recorder = Recorder()
    for batch in _ahead(range(4), recorder, 2):
        recorder.events.append(f"use {batch}")
    assert " ".join(recorder.events) == (
        "start 0 start 1 start 2 finish 0 use 0 start 3 finish 1 use 1 finish 2 use 2 finish 3 use 3"
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_every_batch_comes_once_and_in_order(count: int, ahead: int) -> None:
    assert list(_ahead(range(count), Recorder(), ahead)) == list(range(count))


def test_an_error_of_the_loader_is_the_loops_own() -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise ValueError("cannot decode image")

    seen = []
    with pytest.raises(ValueError, match="cannot decode image"):
        for batch in _ahead(broken(), Recorder(), 1):
            seen.append(batch)
    assert seen == [0, 1]


@dataclass
class Sample:
    images: Tensor
    names: list[str]


def batches() -> list[Any]:
    images = torch.arange(24.0).view(2, 3, 2, 2)
    return [(images, torch.tensor([1, 2])), {"pixels": images, "size": 2}, Sample(images, ["a", "b"])]


def test_on_a_cpu_the_batches_pass_through() -> None:
    whole = batches()
    loader = PrefetchLoader(whole, "cpu")
    assert len(loader) == 3 and all(one is two for one, two in zip(loader, whole, strict=True))


def test_batches_keep_their_structure_on_another_device() -> None:
    pair, mapping, sample = PrefetchLoader(batches(), "meta")
    assert isinstance(pair, tuple) and [value.device.type for value in pair] == ["meta", "meta"]
    assert list(mapping) == ["pixels", "size"] and mapping["pixels"].is_meta and mapping["size"] == 2
    assert isinstance(sample, Sample) and sample.images.is_meta and sample.names == ["a", "b"]


def test_a_low_steps_images_travel_at_their_own_size() -> None:
    """The workers of ``host_loader`` make them smaller: a quarter of the bytes, at r = 2."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    pair = build_pair(model, torch.zeros(2, 3, 16, 16))
    net = LowModeModel(pair, BernoulliSchedule(p=0.5, seed=1), downsample_on="host", compile=False).train()
    dataset = TensorDataset(torch.randn(24, 3, 16, 16), torch.arange(24))
    loader = PrefetchLoader(host_loader(dataset, net, batch_size=2), "meta")
    modes = [net.mode_at(step, 0) for step in range(12)]
    assert set(modes) == {Mode.LOW, Mode.FULL}
    for mode, (images, labels) in zip(modes, loader, strict=True):
        assert images.is_meta and labels.shape == (2,)
        assert images.nbytes == 2 * 3 * 16 * 16 * 4 // (4 if mode is Mode.LOW else 1)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="ahead=0 is too small; give an int of at least 1"):
        PrefetchLoader([], "cpu", ahead=0)
    with pytest.raises(TypeError, match=re.escape("generator has no length")):
        len(PrefetchLoader((batch for batch in batches()), "cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pinned", [False, True])
def test_a_gpu_reads_what_was_copied(pinned: bool) -> None:
    """Large enough that a copy takes longer than its launch, and written over while others are under way."""
    whole = [torch.full((64, 3, 128, 128), float(number)) for number in range(12)]
    source = [batch.pin_memory() for batch in whole] if pinned else whole
    sums = [batch.sum() for batch in PrefetchLoader(source, "cuda")]
    assert [value.item() for value in sums] == [batch.sum().item() for batch in whole]
