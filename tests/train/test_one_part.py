"""``load_data(only=…)``: one part of a set, as it is among all of them, and no other part decoded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from test_shards import write_parquet, write_tars
from test_torchvision_sets import ThreeSplits, with_set
from training import write_images

from lowmode_fx.train import DataSplits, load_data
from lowmode_fx.train import data as data_module
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.names import Part
from passes.errors import OptionError

installed = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets")
PARTS: tuple[Part, ...] = ("train", "val", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, part in enumerate(("train", "validation", "test")):
        write_images(tmp_path / "images" / part, {"cat": 4 - seed, "dog": 3}, seed=seed)
    return tmp_path / "images"


class Named(ThreeSplits):
    classes = ("ant", "bee", "cow", "doe", "elk")


def assert_alone(spec: str, part: Part, whole: DataSplits) -> DataSplits:
    """The part stands for all, with the pixels, labels, classes and augmentation that it has among them."""
    alone, right = load_data(spec, only=part), getattr(whole, part)
    for found in (alone.train, alone.val):
        assert isinstance(found, MemoryImages) and isinstance(right, MemoryImages)
        assert torch.equal(found.images, right.images) and torch.equal(found.labels, right.labels)
    assert alone.test is None and alone.classes == whole.classes and alone.augmentation == whole.augmentation
    if part == "train":
        assert (alone.mean, alone.std, alone.notes) == (whole.mean, whole.std, whole.notes)
    return alone


@pytest.mark.parametrize("part", PARTS)
def test_of_a_folder(folder: Path, part: Part, capfd: pytest.CaptureFixture[str]) -> None:
    whole = load_data(f"folder:{folder}")
    others = {"train": "validation", "val": "test", "test": "train"}
    for path in sorted((folder / others[part]).glob("*/*"))[1:]:  # the first gives the size of all
        path.write_bytes(b"no image")
    capfd.readouterr()
    assert_alone(f"folder:{folder}", part, whole)
    word = {"val": "validation"}.get(part, part)
    assert capfd.readouterr().err.splitlines() == [f"decoding {word} images …"]


def test_a_large_set_has_the_same_statistics(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is large by its parts together: the wanted one stays in its files, too."""
    monkeypatch.setattr(data_module, "MEMORY_LIMIT_BYTES", 8 * 8 * 3 * 10)
    whole, alone = load_data(f"folder:{folder}"), load_data(f"folder:{folder}", only="train")
    assert not isinstance(alone.train, MemoryImages) and len(alone.train) == 7
    assert (alone.mean, alone.std) == (whole.mean, whole.std) == data_module.STANDARD_STATISTICS[3]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("named", [True, False])
def test_of_a_set_of_torchvisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], part: Part, named: bool
) -> None:
    """One that doesn't name its classes has them of all labels."""
    with_set(monkeypatch, Named if named else ThreeSplits)
    whole = load_data(f"torchvision:Mine={tmp_path}")
    capfd.readouterr()
    alone = assert_alone(f"torchvision:Mine={tmp_path}", part, whole)
    assert alone.classes == (Named.classes if named else tuple("01234"))
    decoded = capfd.readouterr().err.splitlines()
    assert decoded == [f"decoding Mine's {each} images …" for each in PARTS if each == part or not named]


@installed
@pytest.mark.parametrize("part", PARTS)
def test_of_files_of_many_images(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], part: Part) -> None:
    parquet, tars = write_parquet(folder, tmp_path / "parquet"), write_tars(folder, tmp_path / "tars")
    for spec in (f"parquet:{parquet}", f"webdataset:{tars}"):
        whole = load_data(spec)
        capfd.readouterr()
        assert_alone(spec, part, whole)
        decoded = [line for line in capfd.readouterr().err.splitlines() if line.startswith("decoding")]
        assert [line.split("'s ")[1] for line in decoded] == [f"{part} images …"]


def test_of_digits() -> None:
    whole = load_data("digits", 8)
    for part in PARTS[:2]:
        alone = load_data("digits", 8, only=part)
        right = getattr(whole, part)
        assert isinstance(alone.val, MemoryImages) and torch.equal(alone.val.images, right.images)
        assert (alone.mean, alone.std) == (whole.mean, whole.std)


def test_a_part_that_is_not_there(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"^only='test' finds no such part in digits; give train or val$"):
        load_data("digits", only="test")
    with pytest.raises(OptionError, match=r"^only='valid' is unknown; give 'val', 'test' or 'train'$"):
        load_data(f"folder:{folder}", only="valid")  # type: ignore[arg-type]
