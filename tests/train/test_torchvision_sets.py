"""torchvision's data sets from a folder where they lie, against what torchvision itself reads there."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from lowmode_fx.loading.augmentation import Augmentation
from lowmode_fx.train import data as data_module
from lowmode_fx.train.data import load_data
from lowmode_fx.train.images import MemoryImages


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 7), ("t10k", 3)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
        for kind in ("images-idx3", "labels-idx1"):
            text = (raw / f"{name}-{kind}-ubyte").read_bytes()
            (raw / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(text))
    return tmp_path


def test_fashion_mnist(fashion: Path) -> None:
    found = load_data(f"torchvision:FashionMNIST={fashion}", in_chans=1)
    for part, is_train in ((found.train, True), (found.val, False)):
        right = datasets.FashionMNIST(str(fashion), train=is_train)
        assert isinstance(part, MemoryImages)
        assert torch.equal(part.images[:, 0], right.data) and torch.equal(part.labels, right.targets)
    assert found.classes == tuple(datasets.FashionMNIST.classes) and found.test is None
    assert found.augmentation == Augmentation(shift=3, flip=True)
    assert load_data(f"torchvision:FashionMNIST={fashion}", 16).image_shape == (3, 16, 16)


class ThreeSplits:
    """As Flowers102: its ``split`` is train, val or test."""

    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"Unknown value '{split}' for argument split")
        assert not download
        self.number = {"train": 5, "val": 2, "test": 3}[split]

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return Image.new("RGB", (8, 8), (self.number, 0, 0)), index


def with_set(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setattr(datasets, "Mine", kind, raising=False)
    monkeypatch.setattr(datasets, "__all__", (*datasets.__all__, "Mine"))


def test_a_set_with_val_keeps_its_test_for_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_set(monkeypatch, ThreeSplits)
    found = load_data(f"torchvision:Mine={tmp_path}")
    assert found.test is not None and (len(found.train), len(found.val), len(found.test)) == (5, 2, 3)
    assert found.train.labels.tolist() == [0, 1, 2, 3, 4] and found.classes == tuple("01234")
    assert isinstance(found.val, MemoryImages) and found.val.images[:, 0].unique().tolist() == [2]


def test_sets_that_serve_no_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Boxes(ThreeSplits):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return Image.new("RGB", (8, 8)), {"boxes": []}

    with_set(monkeypatch, Boxes)
    with pytest.raises(ValueError, match=r"^Mine's train images are pairs of Image and dict, not of an image and its"):
        load_data(f"torchvision:Mine={tmp_path}")


def test_images_of_several_sizes_and_sets_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sizes(ThreeSplits):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return Image.new("RGB", (8 + index, 8)), 0

    with_set(monkeypatch, Sizes)
    told = r"^number 1 of Mine's train images is 8×9, others are 8×8; give image_size$"
    with pytest.raises(ValueError, match=told):
        load_data(f"torchvision:Mine={tmp_path}")
    assert load_data(f"torchvision:Mine={tmp_path}", 8).image_shape == (3, 8, 8)
    monkeypatch.setattr(data_module, "MEMORY_LIMIT_BYTES", 100)
    with pytest.raises(ValueError, match=r"^Mine's train images take 0 GiB; give a smaller image_size$"):
        load_data(f"torchvision:Mine={tmp_path}", 8)
    held = load_data(f"torchvision:Mine={tmp_path}", 8, in_memory=True)
    assert held.image_shape == (3, 8, 8), "told to hold it all"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("FashionMNITS", r"data set 'FashionMNITS' is unknown to torchvision\.datasets; .*FashionMNIST"),
        ("Caltech101", "data set 'Caltech101' has no train and test splits of its own"),
        ("FashionMNIST", r"cannot read torchvision's FashionMNIST in '.*': Dataset not found; put its files there$"),
    ],
)
def test_names_and_places_that_are_not_there(tmp_path: Path, spec: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load_data(f"torchvision:{spec}={tmp_path}")


def test_a_spec_without_a_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names no folder; give torchvision:NAME=PATH$"):
        load_data("torchvision:FashionMNIST")
