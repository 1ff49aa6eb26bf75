"""Parquet files as Hugging Face writes them and webdataset's tars: the images of the folder that they were made of."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from training import write_images

from lowmode_fx.loading.augmentation import Augmentation
from lowmode_fx.train import DataSplits, load_data
from lowmode_fx.train import data as data_module
from lowmode_fx.train.data_spec import read_spec, short_name
from lowmode_fx.train.images import MemoryImages
from passes.errors import OptionError

pytestmark = pytest.mark.usefixtures("one_thread")
installed = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets")
PARTS = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, part in enumerate(PARTS):
        write_images(tmp_path / "images" / part, {"cat": 4 - seed, "dog": 3}, seed=seed)
    return tmp_path / "images"


def rows(folder: Path, part: str) -> list[tuple[bytes, int]]:
    """The files of a part and their classes, in order."""
    return [(path.read_bytes(), ["cat", "dog"].index(path.parent.name)) for path in sorted((folder / part).glob("*/*"))]


def write_parquet(folder: Path, root: Path, label: str = "label", **changes: Any) -> Path:
    """As ``datasets`` does: images as bytes, the classes' names in the schema; the training part in two files."""
    import pyarrow
    import pyarrow.parquet

    root.mkdir()
    classes = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, label: classes, **changes}
    schema = {"huggingface": json.dumps({"info": {"features": features}})}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    for part in PARTS:
        found = rows(folder, part)
        halves = [found[:3], found[3:]] if part == "train" else [found]
        for number, half in enumerate(halves):
            images = pyarrow.array([{"bytes": data, "path": None} for data, _ in half], kind)
            table = pyarrow.table({"image": images, label: [place for _, place in half]})
            place = root / f"{part}-{number:05d}-of-{len(halves):05d}.parquet"
            pyarrow.parquet.write_table(table.replace_schema_metadata(schema), place)
    return root


def write_tars(folder: Path, root: Path, label: str = "cls") -> Path:
    root.mkdir()
    for part in PARTS:
        with tarfile.open(root / f"{part}-000000.tar", "w") as tar:
            for number, (data, place) in enumerate(rows(folder, part)):
                for suffix, content in (("png", data), (label, str(place).encode())):
                    entry = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return root


def assert_same(found: DataSplits, right: DataSplits) -> None:
    for part in ("train", "val", "test"):
        one, other = getattr(found, part), getattr(right, part)
        assert isinstance(one, MemoryImages) and isinstance(other, MemoryImages)
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    assert (found.mean, found.std, found.augmentation) == (right.mean, right.std, right.augmentation)


@installed
def test_both_hold_what_the_folder_holds(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    right = load_data(f"folder:{folder}")
    parquet = load_data(f"parquet:{write_parquet(folder, tmp_path / 'parquet')}", workers=1)
    tars = load_data(f"webdataset:{write_tars(folder, tmp_path / 'tars')}")
    for found in (parquet, tars):
        assert_same(found, right)
    assert parquet.classes == ("cat", "dog") and tars.classes == ("0", "1")
    assert right.augmentation == Augmentation(shift=1, flip=True)
    assert capfd.readouterr().err.splitlines().count("opening parquet files …") == 1
    assert load_data(f"parquet:{tmp_path / 'parquet'}", 4, 1).image_shape == (1, 4, 4)


@installed
def test_the_column_of_classes_may_have_another_name(folder: Path, tmp_path: Path) -> None:
    found = load_data(f"parquet:{write_parquet(folder, tmp_path / 'parquet', label='animal')}")
    assert found.classes == ("cat", "dog") and found.train.labels.tolist() == [0] * 4 + [1] * 3


@installed
def test_what_can_not_be_read_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tars = write_tars(folder, tmp_path / "tars", label="txt")
    told = "webdataset files in '.*tars' have the columns png, txt, __key__, __url__; one of images and one of classes"
    with pytest.raises(ValueError, match=told):
        load_data(f"webdataset:{tars}")
    with pytest.raises(ValueError, match=r"^cannot read parquet files in '.*images': "):
        load_data(f"parquet:{folder}")
    parquet = write_parquet(folder, tmp_path / "parquet")
    with monkeypatch.context() as patch:
        patch.setattr(data_module, "MEMORY_LIMIT_BYTES", 100)
        with pytest.raises(ValueError, match="parquet's train images take 0 GiB; give a smaller image_size"):
            load_data(f"parquet:{parquet}")
    for part in ("validation", "test"):
        (parquet / f"{part}-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"have no splits to train and to validate on \(found: train\); name them"):
        load_data(f"parquet:{parquet}")
    (parquet / "train-00000-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"^cannot read parquet files in '.*parquet': ") as error:
        load_data(f"parquet:{parquet}")
    assert "\n" not in str(error.value)


@installed
def test_an_image_that_can_not_be_decoded_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "train/cat/001.png").write_bytes(b"no image")
    told = r"^cannot decode image number 1 of parquet's train images \("
    with pytest.raises(ValueError, match=told):
        load_data(f"parquet:{write_parquet(folder, tmp_path / 'parquet')}")


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowmode_fx.train.data_spec.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"needs datasets, .* installed; pip install 'lowmode-fx\[datasets\]'"):
        read_spec(f"parquet:{tmp_path}")
    assert short_name(f"webdataset:{tmp_path / 'cats'}") == "cats"
