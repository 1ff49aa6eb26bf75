"""Where a run's images lie, that it makes no difference to what is learnt, and what getting them takes."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training import digits, quick_run, quick_settings, tiny_net, write_images

from lowmode_fx.train import DataSplits, load_data, train
from lowmode_fx.train import data as data_module
from lowmode_fx.train import run as run_module
from lowmode_fx.train.batches import train_batches, val_batches
from lowmode_fx.train.clocks import LoadingClock
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.placement import images_on, place_images

pytestmark = pytest.mark.usefixtures("one_thread")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images/train", {"cat": 14, "dog": 9})
    write_images(tmp_path / "images/test", {"cat": 3, "dog": 2}, seed=1)
    return tmp_path / "images"


@pytest.fixture
def streamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> DataSplits:
    """A set whose images stay in their files."""
    monkeypatch.setattr(data_module, "MEMORY_LIMIT_BYTES", 100)
    return load_data(f"folder:{folder}")


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_the_same_from_files_and_from_memory(folder: Path, streamed: DataSplits, workers: int) -> None:
    held = load_data(f"folder:{folder}", in_memory=True)
    assert isinstance(held.train, MemoryImages) and not isinstance(streamed.train, MemoryImages)
    assert (held.mean, held.std) == (streamed.mean, streamed.std), "measured or not, by its size alone"
    options: dict[str, Any] = {"batch_size": 4, "seed": 2, "epoch": 3, "device": CPU, "first": 1, "workers": workers}
    pairs = list(zip(*(train_batches(splits, **options) for splits in (held, streamed)), strict=True))
    assert len(pairs) == 4 and pairs[0][0][0].shape == (4, 3, 8, 8)
    values = (val_batches(splits, batch_size=2, device=CPU, workers=workers) for splits in (held, streamed))
    for one, other in [*pairs, *zip(*values, strict=True)]:
        assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def test_a_device_of_its_own_gets_the_batches_of_the_host() -> None:
    """By the way that images on the host take to a GPU: here to a device without values, so shapes alone are seen."""
    meta = torch.device("meta")
    batches = list(train_batches(digits(), batch_size=125, seed=0, epoch=0, device=meta, first=3))
    assert len(batches) == 8
    for images, labels in batches:
        assert images.is_meta and labels.is_meta and (images.shape, labels.shape) == ((125, 3, 8, 8), (125,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches_from_either_place() -> None:
    options: dict[str, Any] = {"batch_size": 125, "seed": 0, "epoch": 1}
    here, there, held = digits(), digits(), digits().to(GPU)
    batches = [
        train_batches(splits, device=device, **options) for splits, device in ((here, CPU), (there, GPU), (held, GPU))
    ]
    for expected, *others in zip(*batches, strict=True):
        for other in others:
            assert all(torch.equal(one, two.cpu()) for one, two in zip(expected, other, strict=True))


def test_where_images_lie(streamed: DataSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    size = digits().train.images.nbytes + digits().val.images.nbytes  # type: ignore[attr-defined]
    for free, chosen in ((2 * size - 2, "host"), (2 * size, "device")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * size))
        assert images_on("auto", digits(), GPU) == chosen
    assert images_on("auto", digits(), CPU) == images_on("device", digits(), GPU) == "device"
    assert images_on("host", digits(), GPU) == images_on("auto", digits(), torch.device("mps")) == "host"
    assert images_on("auto", streamed, CPU) == images_on("auto", streamed, GPU) == "host"
    tested = replace(digits(), test=digits().val)
    assert images_on("auto", tested, GPU) == "host", "the part that is looked at last takes room too"
    half, last = replace(streamed, train=digits().train), replace(digits(), name="folder:x", test=streamed.val)
    for splits in (streamed, half, last):
        with pytest.raises(ValueError, match=r"data_on='device' finds the images of folder:.* in their files; load"):
            images_on("device", splits, GPU)


def test_images_that_a_device_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> MemoryImages:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …")

    monkeypatch.setattr(MemoryImages, "to", full)
    message = "data_on='device' finds no room for 0.0 GiB of images on cuda; give data_on='host'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        place_images("device", digits(), GPU)


def test_where_images_lie_changes_no_bit_and_may_change_on_resume(tmp_path: Path) -> None:
    """And is told: what was asked for among the settings, what was chosen with the data."""
    outcomes = []
    for place in ("device", "host"):
        net, _ = quick_run(quick_settings(data_on=place, epochs=2, milestones=()), tmp_path / place)
        outcomes.append(net.state_dict())
    assert all(torch.equal(value, outcomes[1][name]) for name, value in outcomes[0].items())
    net, result = quick_run(quick_settings(epochs=3, milestones=()), tmp_path / "host", resume=True)
    assert len(result.records) == 3
    summary = json.loads((tmp_path / "host/summary.json").read_text())
    assert summary["settings"]["data_on"] == "auto" and summary["data"]["on"] == "device"
    with pytest.raises(ValueError, match="data_on='gpu' is unknown; give 'auto', 'device' or 'host'"):
        quick_settings(data_on="gpu")


def slowly(batches: Iterator[Any], seconds: float) -> Iterator[Any]:
    for batch in batches:
        time.sleep(seconds)
        yield batch


def test_the_clock_counts_what_batches_take_and_nothing_else() -> None:
    clock, used, began = LoadingClock(CPU), 0.0, time.perf_counter()
    for _ in clock.timed(slowly(iter(range(4)), 0.02)):
        using = time.perf_counter()
        time.sleep(0.03)
        used += time.perf_counter() - using
    assert 0.08 <= clock.seconds() <= time.perf_counter() - began - used
    clock.restart(5.0)
    assert list(clock.timed([1, 2])) == [1, 2] and 5.0 < clock.seconds() < 6.0
    clock.restart()
    assert clock.seconds() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_clock_counts_the_time_in_which_it_waits_for_images() -> None:
    """All of it where the GPU has nothing else to do, and nearly none while it is busy longer than the host is."""
    clock = LoadingClock(GPU)
    list(clock.timed(slowly(iter(range(4)), 0.02)))
    torch.cuda.synchronize()
    assert 0.08 <= clock.seconds() < 0.2
    clock.restart()
    for _ in clock.timed(slowly(iter(range(4)), 0.001)):
        torch.cuda._sleep(100_000_000)  # cycles: some 50 ms
    torch.cuda.synchronize()
    assert clock.seconds() < 0.02


def test_the_clock_closes_what_it_reads_from_when_a_loop_is_left() -> None:
    closed = []

    def batches() -> Iterator[int]:
        try:
            yield from range(5)
        finally:
            closed.append(True)

    timed = LoadingClock(CPU).timed(batches())
    next(timed)
    timed.close()  # type: ignore[attr-defined]
    assert closed == [True]


def test_loadings_share_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """22 steps wait a hundredth of a second each; it is kept through an interruption in the midst of an epoch."""
    whole = run_module.train_batches
    monkeypatch.setattr(run_module, "train_batches", lambda *given, **named: slowly(whole(*given, **named), 0.01))
    _, result = quick_run(quick_settings(epochs=2, milestones=()), tmp_path / "run")
    for record in result.records:
        assert 0.11 <= record.loading_seconds < record.seconds
    assert 0.22 / result.train_seconds <= result.loading_share < 1
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["results"]["loading_share"] == round(result.loading_share, 4)


def test_loading_seconds_go_on_where_a_run_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_module.train_batches

    def stopping(*given: Any, **named: Any) -> Iterator[Any]:
        for number, batch in enumerate(slowly(whole(*given, **named), 0.02)):
            if number == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train_batches", stopping)
        _, result = quick_run(quick_settings(epochs=1, milestones=()), tmp_path / "run")
    assert result.interrupted and not result.records
    _, result = quick_run(quick_settings(epochs=1, milestones=()), tmp_path / "run", resume=True)
    (record,) = result.records
    assert 0.14 <= record.loading_seconds < record.seconds


def test_a_run_asks_for_images_in_memory(streamed: DataSplits) -> None:
    with pytest.raises(ValueError, match=r"data_on='device' finds the images of folder:"):
        train(tiny_net(), streamed, quick_settings(data_on="device"), quiet=True)
