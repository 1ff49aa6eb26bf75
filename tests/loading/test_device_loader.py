"""Batches made on the device: right pictures, the same ones whatever the batch, the rank, the order or the resume."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import BatchSampler
from torch.utils.data.distributed import DistributedSampler

from lowmode_fx import Augmentation, BernoulliSchedule, DeviceLoader, LowModeConfig, LowModeModel, Mode, build_pair
from lowmode_fx.runtime.schedules.draws import GOLDEN_GAMMA, WORD, mix64

pytestmark = pytest.mark.usefixtures("one_thread")
MEAN, STD = (0.3, 0.5, 0.7, 0.1), (0.2, 0.3, 0.25, 0.5)
CROPS = Augmentation(shift=2, flip=True)


def image_set(count: int = 24, shape: tuple[int, int, int] = (3, 6, 5)) -> tuple[Tensor, Tensor]:
    """Random bytes, each labelled with its place in the set."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator), torch.arange(count)


def picture(image: Tensor, index: int, seed: int, epoch: int, kind: Augmentation) -> Tensor:
    """What an image looks like in an epoch, written out for one image: by Python's integers, slices and numpy."""
    key = 0
    for part in (seed, 1, epoch):
        key = mix64((key + part + GOLDEN_GAMMA) & WORD)
    word = mix64((key + (index + 1) * GOLDEN_GAMMA) & WORD)
    span, (channels, height, width) = 2 * kind.shift + 1, image.shape
    top, left = ((word >> 40) * span) >> 24, (((word >> 16) & 0xFFFFFF) * span) >> 24
    padded = np.zeros((channels, height + 2 * kind.shift, width + 2 * kind.shift), np.uint8)
    padded[:, kind.shift : kind.shift + height, kind.shift : kind.shift + width] = image.numpy()
    cut = padded[:, top : top + height, left : left + width]
    if kind.flip and word & 1:
        cut = cut[:, :, ::-1]
    mean, std = (np.array(values[:channels], np.float32)[:, None, None] for values in (MEAN, STD))
    return torch.from_numpy(cut.astype(np.float32) * (1 / (255 * std)) + -mean / std)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_images_picture_is_a_function_of_seed_epoch_and_its_index(data: st.DataObject) -> None:
    """With batches of any size, on any number of ranks, in any order."""
    draw = data.draw
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    images, labels = image_set(draw(st.integers(1, 30)), shape)
    kind = Augmentation(draw(st.integers(0, 4)), draw(st.booleans()))
    seed, epoch, world = draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 300)), draw(st.integers(1, 4))
    loader = DeviceLoader(
        *(images, labels, draw(st.integers(1, 40)), draw(st.booleans())),
        mean=MEAN[: shape[0]],
        std=STD[: shape[0]],
        augmentation=kind,
        seed=seed,
        rank=draw(st.integers(0, world - 1)),
        world_size=world,
    )
    loader.set_epoch(epoch)
    for batch, indices in loader:
        for shown, index in zip(batch, indices.tolist(), strict=True):
            torch.testing.assert_close(shown, picture(images[index], index, seed, epoch, kind), rtol=0, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    world=st.integers(1, 4),
    drop_last=st.booleans(),
)
def test_ranks_share_a_set_as_torchs_sampler_has_it(count: int, batch_size: int, world: int, drop_last: bool) -> None:
    images, labels = image_set(count)
    for rank in range(world):
        sampler: Any = DistributedSampler(labels, world, rank, shuffle=False, drop_last=drop_last)  # type: ignore[arg-type]
        wanted = list(BatchSampler(sampler, batch_size, drop_last))
        if not wanted:
            with pytest.raises(ValueError, match=r"batch_size=.* is more than the .* images; give a smaller one, or"):
                DeviceLoader(images, labels, batch_size, drop_last=True, rank=rank, world_size=world)
            continue
        loader = DeviceLoader(images, labels, batch_size, drop_last=drop_last, rank=rank, world_size=world)
        assert [indices.tolist() for _, indices in loader] == wanted and len(loader) == len(wanted)


def test_the_ranks_batches_together_are_those_of_one_process() -> None:
    images, labels = image_set(50)
    whole = DeviceLoader(images, labels, 12, True, drop_last=True, augmentation=CROPS, seed=4)
    parts = [
        DeviceLoader(images, labels, 4, True, drop_last=True, augmentation=CROPS, seed=4, rank=rank, world_size=3)
        for rank in range(3)
    ]
    for (together, indices), *shares in zip(whole, *parts, strict=True):
        for rank, (images_there, indices_there) in enumerate(shares):
            assert torch.equal(indices_there, indices[rank::3]) and torch.equal(images_there, together[rank::3])


def test_batches_have_one_shape_but_for_a_ragged_last_one() -> None:
    images, labels = image_set(26)
    sizes = [len(batch) for batch, _ in DeviceLoader(images, labels, 8, augmentation=CROPS)]
    assert sizes == [8, 8, 8, 2]
    assert [len(batch) for batch, _ in DeviceLoader(images, labels, 8, drop_last=True)] == [8, 8, 8]


def test_an_epoch_is_a_shuffle_of_its_own_and_repeats() -> None:
    images, labels = image_set()
    loader = DeviceLoader(images, labels, 8, shuffle=True, augmentation=CROPS)

    def epoch(number: int) -> tuple[Tensor, Tensor]:
        loader.set_epoch(number)
        torch.manual_seed(number * 7 + 1)  # what the caller draws is nothing to it
        batches = list(loader)
        return torch.cat([images for images, _ in batches]), torch.cat([indices for _, indices in batches])

    first, second, again = epoch(0), epoch(1), epoch(0)
    assert sorted(first[1].tolist()) == sorted(second[1].tolist()) == labels.tolist()
    assert not torch.equal(first[1], second[1])
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_it_draws_from_no_global_generator() -> None:
    before = torch.get_rng_state()
    list(DeviceLoader(*image_set(), 8, shuffle=True, augmentation=CROPS))
    assert torch.equal(before, torch.get_rng_state())


def test_a_resumed_epoch_gives_the_rest_of_the_same_batches() -> None:
    def make() -> DeviceLoader:
        return DeviceLoader(*image_set(40), 8, shuffle=True, augmentation=CROPS, seed=3)

    whole, stopped, resumed = make(), make(), make()
    for loader in (whole, stopped):
        loader.set_epoch(2)
    list(islice(stopped, 2))
    state = stopped.state_dict()
    assert state == {"epoch": 2, "step": 2}
    resumed.load_state_dict(state)
    resumed.set_epoch(2)  # as the loop does, before each epoch
    rest = list(resumed)
    assert len(rest) == 3 and resumed.state_dict() == {"epoch": 2, "step": 5}
    for (images, indices), (images_again, indices_again) in zip(list(whole)[2:], rest, strict=True):
        assert torch.equal(images, images_again) and torch.equal(indices, indices_again)
    assert len(list(resumed)) == 5, "only the first iteration goes on"
    resumed.load_state_dict({"epoch": 2, "step": 5})
    assert list(resumed) == [], "saved after the last batch"
    resumed.set_epoch(3)
    assert resumed.state_dict() == {"epoch": 3, "step": 0} and len(list(resumed)) == 5


def test_any_batch_can_be_asked_for_in_any_order() -> None:
    loader = DeviceLoader(*image_set(40), 8, shuffle=True, augmentation=CROPS)
    whole = list(loader.batches(5))
    for step in (3, 0, 4):
        images, indices = next(loader.batches(5, step))
        assert torch.equal(images, whole[step][0]) and torch.equal(indices, whole[step][1])


def test_channels_last_images_are_the_same_images() -> None:
    images, labels = image_set()
    channels_last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    loaders = (DeviceLoader(each, labels, 8, augmentation=CROPS) for each in (images, channels_last))
    for (one, _), (other, _) in zip(*loaders, strict=True):
        assert torch.equal(one, other) and other.is_contiguous()


def test_the_set_itself_is_left_as_it_is() -> None:
    images, labels = image_set()
    before = images.clone()
    for batch, _ in DeviceLoader(images, labels, 8, mean=(0.5,), std=(0.5,)):
        batch.zero_()
    for batch, _ in DeviceLoader(images, labels, 8, augmentation=Augmentation(flip=True)):
        batch.zero_()
    assert torch.equal(images, before)


class _HostTensors(TorchDispatchMode):
    """Operators that are given a tensor of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_batch_waits_for_the_host() -> None:
    """On a device without values nothing can be read, and after the first batch nothing comes from the host."""
    images, labels = image_set(40)
    loader = DeviceLoader(images, labels, 8, True, augmentation=CROPS, device="meta")
    batches: Iterator[Any] = iter(loader)
    with _HostTensors() as seen:
        next(batches)
        assert seen.calls, "an epoch's draws come from the host, at once"
        seen.calls.clear()
        rest = list(batches)
    assert not seen.calls and len(rest) == 4
    assert all(batch.device.type == "meta" and batch.shape == (8, 3, 6, 5) for batch, _ in rest)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_shows_the_pictures_of_a_cpu_and_never_waits() -> None:
    images, labels = image_set(200, (3, 32, 32))
    options: dict[str, Any] = {"mean": MEAN[:3], "std": STD[:3], "augmentation": CROPS, "seed": 5}
    here = DeviceLoader(images, labels, 32, True, **options)
    there = iter(DeviceLoader(images, labels, 32, True, device="cuda", **options))
    batches = [next(there)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches += list(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (images_here, labels_here), (images_there, labels_there) in zip(here, batches, strict=True):
        assert torch.equal(images_here, images_there.cpu()) and torch.equal(labels_here, labels_there.cpu())


def net(on: Any) -> LowModeModel:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 24),
    )  # fmt: skip
    pair = build_pair(model, torch.zeros(2, 3, 16, 16), LowModeConfig())
    return LowModeModel(pair, BernoulliSchedule(p=0.5, seed=1), downsample_on=on, compile=False).train()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_low_steps_get_their_images_at_their_own_size(accumulation: int) -> None:
    """Bit for bit as if the net made them smaller, which asks the schedule at each step."""
    losses, modes = [], []
    for on in ("host", "device"):
        trained = net(on)
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        trained.attach(optimizer)
        options = {"net": trained, "accumulation": accumulation} if on == "host" else {}
        loader = DeviceLoader(*image_set(24, (3, 16, 16)), 2, True, augmentation=CROPS, **options)  # type: ignore[arg-type]
        for epoch in range(2):
            trained.set_epoch(epoch)
            loader.set_epoch(epoch)
            for number, (images, labels) in enumerate(loader, start=1):
                loss = nn.functional.cross_entropy(trained(images), labels)
                loss.backward()
                if number % accumulation == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.item())
                modes.append(trained.last_mode)
                assert images.shape[-1] == (8 if on == "host" and trained.last_mode is Mode.LOW else 16)
    assert losses[:24] == losses[24:] and modes[:24] == modes[24:]
    assert set(modes) == {Mode.FULL, Mode.LOW}


def test_labels_may_be_probabilities() -> None:
    images, labels = image_set(10)
    soft = nn.functional.one_hot(labels, 10).float()
    shown = torch.cat([batch for _, batch in DeviceLoader(images, soft, 4, True, augmentation=CROPS)])
    assert shown.shape == (10, 10) and torch.equal(shown.sum(0), torch.ones(10))


def test_maps_as_labels_move_with_nothing() -> None:
    images, _ = image_set(4)
    maps = torch.zeros(4, 6, 5)
    assert next(iter(DeviceLoader(images, maps, 2)))[1].shape == (2, 6, 5)
    with pytest.raises(ValueError, match=r"labels have shape \(4, 6, 5\) but are not cropped and flipped with"):
        DeviceLoader(images, maps, 2, augmentation=CROPS)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": torch.zeros(24, 3, 6, 5)}, TypeError, "images have dtype torch.float32; give the decoded bytes"),
        ({"images": np.zeros((24, 3, 6, 5), np.uint8)}, TypeError, "images is of type ndarray; give a tensor"),
        ({"images": torch.zeros(24, 6, 5, dtype=torch.uint8)}, ValueError, "images have shape (24, 6, 5); give (N, C,"),
        ({"labels": torch.zeros(23)}, ValueError, "24 images have 23 labels; give one label per image"),
        ({"mean": (0.1, 0.2)}, ValueError, "mean has 2 values for 3 channels; give one per channel"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is too small; give an int of at least 1"),
        ({"batch_size": 25, "drop_last": True}, ValueError, "batch_size=25 is more than the 24 images; give a smaller"),
        ({"rank": 2, "world_size": 2}, ValueError, "rank=2 is out of range; give one below world_size=2"),
        (
            {"labels": torch.zeros(24), "augmentation": Augmentation(mixup=0.2), "classes": 2},
            TypeError,
            "labels have dtype torch.float32, and are to be mixed; give classes, torch.int64",
        ),
        (
            {"labels": torch.arange(24), "augmentation": Augmentation(cutmix=1.0), "classes": 23},
            ValueError,
            "labels go from 0 to 23; give classes from 0 to 22, or more classes",
        ),
        (
            {"labels": torch.zeros(24, 2, dtype=torch.int64), "augmentation": Augmentation(mixup=1.0), "classes": 2},
            ValueError,
            "labels have shape (24, 2), and are to be mixed; give one class per image",
        ),
        ({"shuffle": 1}, TypeError, "shuffle=1 is of type int; give True or False"),
        (
            {"mean": 0.5},
            TypeError,
            "mean=0.5 is not a sequence; give a tuple of one number, or of one per channel, as (0.5,)",
        ),
        (
            {"augmentation": "flip"},
            TypeError,
            "augmentation='flip' is of type str; give an Augmentation, such as Augmentation(flip=True)",
        ),
        ({"net": net("device").pair}, TypeError, "net is of type ModePair; give a LowModeModel"),
        ({"net": net("device")}, ValueError, "net downsamples on the device too, so images would shrink twice; give"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    images, labels = image_set()
    with pytest.raises(error, match=re.escape(message)):
        DeviceLoader(**{"images": images, "labels": labels, "batch_size": 8, **changes})
