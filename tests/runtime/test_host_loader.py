"""Downsampling in the loader's workers: the same modes, the same images, a quarter of the bytes."""

from __future__ import annotations

import pickle
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from calls import Classifier, Network
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from lowmode_fx import AgreementSchedule, BernoulliSchedule, LowModeConfig, LowModeModel, Mode, build_pair, host_loader
from lowmode_fx.runtime.host_loader import ModeBatchSampler
from passes.trees import tree_leaves

SCHEDULE = BernoulliSchedule(p=0.5, seed=1)
IMAGES, LABELS = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip


def make(on: Any = "host", **options: Any) -> LowModeModel:
    pair = build_pair(network(), torch.zeros(2, 3, 16, 16), LowModeConfig(**options))
    return LowModeModel(pair, SCHEDULE, downsample_on=on, compile=False).train()


class Dictionaries(Dataset[dict[str, Tensor]]):
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": IMAGES[index], "label": LABELS[index]}

    def __len__(self) -> int:
        return len(IMAGES)


def train(net: LowModeModel, loader: Any, epochs: int = 2, accumulation: int = 1) -> list[Mode]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.attach(optimizer)
    modes = []
    for epoch in range(epochs):
        net.set_epoch(epoch)
        for number, (images, labels) in enumerate(loader, start=1):
            nn.functional.cross_entropy(net(images), labels).backward()
            assert net.last_mode is not None
            modes.append(net.last_mode)
            if number % accumulation == 0:
                optimizer.step()
                optimizer.zero_grad()
    return modes


@pytest.mark.parametrize("method", ["gaussian", "bilinear", "area"])
@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (2, 1), (2, 2)])
def test_training_is_bit_for_bit_that_of_the_device_path(workers: int, accumulation: int, method: Any) -> None:
    data = TensorDataset(IMAGES, LABELS)
    host, device = make(input_method=method), make("device", input_method=method)
    loader = host_loader(data, host, batch_size=4, num_workers=workers, accumulation=accumulation)
    modes = train(host, loader, 2 * accumulation, accumulation)
    assert modes == train(device, DataLoader(data, batch_size=4), 2 * accumulation, accumulation)
    assert set(modes) == {Mode.LOW, Mode.FULL}
    for name, value in device.state_dict().items():
        assert torch.equal(host.state_dict()[name], value), name


def test_a_low_batch_is_a_quarter_of_the_bytes() -> None:
    net = make()
    sizes = {batch[0].nbytes for batch in host_loader(TensorDataset(IMAGES, LABELS), net, batch_size=4)}
    whole = IMAGES[:4].nbytes
    assert sizes == {whole, whole // 4}


def test_a_batch_may_be_a_dictionary_or_the_images_alone() -> None:
    net = make()
    expected = [net.schedule.mode(step, 0) for step in range(6)]
    sides = {Mode.FULL: 16, Mode.LOW: 8}
    for batches in (
        [batch["image"] for batch in host_loader(Dictionaries(), net, 4, images="image")],
        list(host_loader(IMAGES, net, 4)),  # type: ignore[arg-type]
    ):
        assert [batch.shape[-1] for batch in batches] == [sides[mode] for mode in expected]
    labels = [batch["label"] for batch in host_loader(Dictionaries(), net, 4, images="image")]
    assert torch.equal(torch.cat(labels), LABELS)


class Sample(NamedTuple):
    label: Tensor
    image: Tensor


SAMPLES = [Sample(label, image) for label, image in zip(LABELS, IMAGES, strict=True)]


def mapping(samples: list[Sample]) -> UserDict[str, Tensor]:
    return UserDict(image=torch.stack([each.image for each in samples]))


def ordered(samples: list[Sample]) -> OrderedDict[str, Tensor]:
    return OrderedDict(image=torch.stack([each.image for each in samples]))


@pytest.mark.parametrize(
    ("collate", "images", "kind"),
    [
        (default_collate, 1, Sample),
        (default_collate, -1, Sample),
        (mapping, "image", UserDict),
        (ordered, "image", OrderedDict),
    ],
)
def test_a_batch_keeps_its_structure_in_either_mode(collate: Any, images: Any, kind: type) -> None:
    batches = list(host_loader(SAMPLES, make(), 4, images=images, collate_fn=collate))  # type: ignore[arg-type]
    assert all(type(batch) is kind for batch in batches)
    assert {batch[images].shape[-1] for batch in batches} == {16, 8}


def test_a_place_that_is_not_there_is_named_at_once() -> None:
    never = LowModeModel(make().pair, BernoulliSchedule(p=0.0), downsample_on="host", compile=False)
    for images, words in [(2, "of a Sample of 2; give the place of a float tensor"), ("x", "a batch of a Sample of 2")]:
        with pytest.raises(ValueError, match=words):
            next(iter(host_loader(SAMPLES, never, 4, images=images)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images='pixels' is not a place in a batch of a dict with 'image'"):
        next(iter(host_loader(Dictionaries(), never, 4, images="pixels")))


# Models of several inputs ---------------------------------------------------------------------------------------------


class Tensors(Dataset[Any]):
    """Samples in the structure that ``make`` gives them, of an image, a depth map and a label."""

    def __init__(self, make: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        self.make = make

    def __getitem__(self, index: int) -> Any:
        return self.make(IMAGES[index], IMAGES[index, :1], LABELS[index])

    def __len__(self) -> int:
        return len(IMAGES)


class Depth(Network):
    def forward(self, x: Tensor, depth: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(x) + depth.mean((1, 2, 3))[:, None], labels)


class LabelsFirst(Network):
    def forward(self, labels: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        assert x is not None
        return self.logits(x)


class Views(Network):
    def forward(self, views: list[Tensor], labels: Tensor | None = None) -> Tensor:
        return sum((self.logits(each) for each in views), torch.zeros(()))


DEPTH, VIEWS = (IMAGES[:4], IMAGES[:4, :1], LABELS[:4]), [IMAGES[:4], IMAGES[:4]]


@pytest.mark.parametrize(
    ("model", "example", "said", "make", "call"),
    [
        (Classifier(), {"pixel_values": IMAGES[:4], "labels": LABELS[:4]}, None,
         lambda x, d, y: {"labels": y, "pixel_values": x}, lambda batch: ((), batch)),
        (Classifier(), {"pixel_values": IMAGES[:4], "labels": LABELS[:4]}, None,
         lambda x, d, y: (x, y), lambda batch: (batch, {})),
        (LabelsFirst(), {"x": IMAGES[:4]}, None, lambda x, d, y: (x, y), lambda batch: ((), {"x": batch[0]})),
        (Depth(), DEPTH, "x", lambda x, d, y: (x, d, y), lambda batch: (batch, {})),
        (Depth(), DEPTH, ("x", "depth"), lambda x, d, y: {"depth": d, "x": x, "labels": y}, lambda batch: ((), batch)),
        (Depth(), DEPTH, "x", lambda x, d, y: ({"depth": d, "x": x, "labels": y}, y), lambda batch: ((), batch[0])),
        (Depth(), DEPTH, ("depth", "x"), lambda x, d, y: ((x, d, y), y), lambda batch: (batch[0], {})),
        (Views(), (VIEWS,), None, lambda x, d, y: (([x, x, x],), y), lambda batch: (batch[0], {})),
        (Views(), {"views": VIEWS, "labels": None}, None, lambda x, d, y: {"views": [x, x]},
         lambda batch: ((), {"labels": None, **batch})),
    ],
)  # fmt: skip
def test_the_images_that_the_model_is_called_with_are_downsampled(
    model: nn.Module, example: Any, said: Any, make: Any, call: Any
) -> None:
    pair = build_pair(model, example, images=said)
    device, host = (
        LowModeModel(pair, SCHEDULE, downsample_on=on, compile=False).train()  # type: ignore[arg-type]
        for on in ("device", "host")
    )
    loader = host_loader(Tensors(make), host, 4)
    loader.collate_fn = pickle.loads(pickle.dumps(loader.collate_fn))  # as a spawned worker gets it
    modes = []
    for ours, theirs in zip(loader, DataLoader(Tensors(make), 4), strict=True):
        results = []
        for net, batch in ((host, ours), (device, theirs)):
            args, kwargs = call(batch)
            results.append(net(*args, **kwargs))
        assert host.last_mode is device.last_mode
        modes.append(host.last_mode)
        assert all(map(torch.equal, tensors(results[0]), tensors(results[1])))
    assert set(modes) == {Mode.LOW, Mode.FULL}


def tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def test_where_a_batch_holds_the_images_may_be_said_of_several() -> None:
    pair = build_pair(Depth(), DEPTH, images=("x", "depth"))
    net = LowModeModel(pair, BernoulliSchedule(1.0), downsample_on="host", compile=False)
    (batch, *_) = host_loader(Tensors(lambda x, d, y: {"a": x, "b": d, "c": d}), net, 4, images=("a", "b"))
    assert [value.shape[-1] for value in batch.values()] == [8, 8, 16]


def test_a_batch_without_the_models_images_is_refused() -> None:
    pair = build_pair(Classifier(), {"pixel_values": IMAGES[:4], "labels": LABELS[:4]})
    net = LowModeModel(pair, BernoulliSchedule(0.0), downsample_on="host", compile=False)
    with pytest.raises(ValueError) as error:
        next(iter(host_loader(Tensors(lambda x, d, y: {"image": x, "labels": y}), net, 4)))
    assert str(error.value) == (
        "pixel_values, the model's images, were not found in a batch of a dict with 'image', 'labels'; "
        "give their place as images="
    )
    low = LowModeModel(pair, BernoulliSchedule(1.0), downsample_on="host", compile=False)
    with pytest.raises(TypeError, match=r"images is of type torch\.int64; give a tensor"):
        next(iter(host_loader(Tensors(lambda x, d, y: {"pixel_values": x.long(), "labels": y}), low, 4)))


def test_a_generator_orders_the_batches_as_it_does_in_torchs_loader() -> None:
    data = TensorDataset(IMAGES, LABELS)
    ours = host_loader(data, make(), 4, shuffle=True, generator=torch.Generator().manual_seed(5))
    theirs = DataLoader(data, 4, shuffle=True, generator=torch.Generator().manual_seed(5))
    assert [labels.tolist() for _, labels in ours] == [labels.tolist() for _, labels in theirs]


def test_a_resumed_run_goes_on_with_the_modes_to_come() -> None:
    net = make()
    net.load_schedule_state({"step": 11, "epoch": 1})
    batches = ModeBatchSampler.for_net(net)(SequentialSampler(range(8)), 2)
    assert [batch.mode for batch in batches] == [SCHEDULE.mode(step, 1) for step in range(11, 15)]  # type: ignore[attr-defined]
    assert len(batches) == 4


def test_shuffling_and_samplers_are_the_loaders_own() -> None:
    net, data = make(), TensorDataset(IMAGES, LABELS)
    torch.manual_seed(1)
    shuffled = torch.cat([labels for _, labels in host_loader(data, net, 4, shuffle=True)])
    assert not torch.equal(shuffled, LABELS) and torch.equal(shuffled.sort().values, LABELS.sort().values)
    assert len(host_loader(data, net, 5)) == 5 and len(host_loader(data, net, 5, drop_last=True)) == 4
    chosen = host_loader(data, net, 2, sampler=SequentialSampler(range(6)))
    assert torch.equal(torch.cat([labels for _, labels in chosen]), LABELS[:6])
    given = host_loader(data, net, batch_sampler=[[0, 5], [7]])
    assert [labels.tolist() for _, labels in given] == [LABELS[[0, 5]].tolist(), LABELS[[7]].tolist()]


def test_what_does_not_go_together_is_named() -> None:
    data = TensorDataset(IMAGES, LABELS)
    with pytest.raises(ValueError, match="images would shrink twice; give downsample_on='host'"):
        host_loader(data, make("device"))
    with pytest.raises(TypeError, match=r"^net is of type TensorDataset; give a LowModeModel$"):
        host_loader(make(), data)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_sampler excludes other arguments"):
        host_loader(data, make(), 4, batch_sampler=[[0]])
    with pytest.raises(ValueError, match="accumulation=0 is too small"):
        host_loader(data, make(), accumulation=0)
    with pytest.raises(ValueError, match="images stay at full size"):
        make(downsample_input=False)
    with pytest.raises(ValueError, match=r"use downsample_on='device' with AgreementSchedule"):
        LowModeModel(make("device").pair, AgreementSchedule(every=500), downsample_on="host")
    with pytest.raises(ValueError, match="downsample_on='gpu' is unknown; give 'device' or 'host'"):
        make("gpu")
    with pytest.raises(ValueError, match=r"images are 12×12; .* needs 16×16 for a full step or 8×8 for a low one"):
        make()(torch.zeros(2, 3, 12, 12))


def test_an_iterable_dataset_is_refused() -> None:
    class Stream(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(IMAGES)

    with pytest.raises(TypeError, match=r"^dataset Stream is iterable, so workers can't know a batch's step; give"):
        host_loader(Stream(), make())
