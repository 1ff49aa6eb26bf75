"""Data sets, batch order, augmentation, and what users are told when their folders are not as expected."""

from __future__ import annotations

import os
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from training import write_images

from lowmode_fx.loading.augmentation import Augmentation
from lowmode_fx.loading.normalise import Normalise
from lowmode_fx.train import data as data_module
from lowmode_fx.train.batches import steps_per_epoch, train_batches, val_batches
from lowmode_fx.train.data import load_data
from lowmode_fx.train.decode import decode
from lowmode_fx.train.images import MemoryImages

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "train", {"cat": 6, "dog": 5})
    write_images(tmp_path / "test", {"cat": 3, "dog": 2}, seed=1)
    return tmp_path


def test_digits_are_split_stratified_and_the_same_each_time() -> None:
    splits = load_data("digits")
    assert splits.image_shape == (3, 32, 32) and splits.num_classes == 10
    assert (len(splits.train), len(splits.val)) == (1437, 360)
    counts = torch.bincount(splits.val.labels)
    assert counts.min() >= 34 and counts.max() <= 38  # a fifth of each class, which has 174 to 183 images
    again = load_data("digits")
    assert isinstance(splits.train, MemoryImages) and isinstance(again.train, MemoryImages)
    assert torch.equal(splits.train.images, again.train.images)
    assert not splits.augmentation.flip, "a mirrored digit is another sign"


def test_digits_take_the_models_channels_and_size() -> None:
    assert load_data("digits", 16, in_chans=1).image_shape == (1, 16, 16)


def test_normalised_training_images_have_mean_0_and_deviation_1() -> None:
    splits = load_data("digits", 8, in_chans=1)
    assert isinstance(splits.train, MemoryImages)
    images = Normalise(splits.mean, splits.std, CPU)(splits.train.images)
    assert abs(images.mean().item()) < 1e-4 and abs(images.std().item() - 1) < 1e-3


def test_folder_is_read_in_order_of_classes_and_names(image_folder: Path) -> None:
    splits = load_data(f"folder:{image_folder}")
    assert splits.classes == ("cat", "dog") and splits.image_shape == (3, 8, 8)
    assert splits.train.labels.tolist() == [0] * 6 + [1] * 5
    assert isinstance(splits.train, MemoryImages)
    assert torch.equal(splits.train.images[7], decode(image_folder / "train/dog/001.png", None, 3))
    assert splits.augmentation == Augmentation(shift=1, flip=True)
    assert image_augmentation_at_32() == Augmentation(shift=4, flip=True)


def image_augmentation_at_32() -> Augmentation:
    return data_module.image_augmentation(32)


def test_folder_may_lie_one_level_down_and_its_test_set_may_be_called_val(image_folder: Path) -> None:
    (image_folder / "test").rename(image_folder / "val")
    inner = image_folder / "outer" / "set"
    inner.mkdir(parents=True)
    for name in ("train", "val"):
        (image_folder / name).rename(inner / name)
    assert len(load_data(f"folder:{image_folder / 'outer'}").val) == 5


def test_large_sets_are_decoded_on_the_fly_to_the_same_batches(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = load_data(f"folder:{image_folder}")
    monkeypatch.setattr(data_module, "MEMORY_LIMIT_BYTES", 100)
    streamed = load_data(f"folder:{image_folder}")
    assert not isinstance(streamed.train, MemoryImages)
    batches = [torch.tensor([3, 1, 9]), torch.tensor([0, 10])]
    for workers in (0, 2):
        pairs = zip(kept.train.fetch(batches), streamed.train.fetch(batches, workers), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_streaming_leaves_the_global_generator_alone(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "MEMORY_LIMIT_BYTES", 100)
    splits = load_data(f"folder:{image_folder}")
    before = torch.get_rng_state()
    list(train_batches(splits, batch_size=4, seed=0, epoch=0, device=CPU))
    assert torch.equal(before, torch.get_rng_state())


def test_other_sizes_are_cropped_in_the_middle_and_scaled(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 8:22] = 200  # the filter reads a pixel beyond the crop
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = decode(tmp_path / "wide.png", (5, 5), 3)
    assert image.shape == (3, 5, 5) and (image == 200).all()


def test_an_epoch_begun_in_the_middle_gives_the_batches_of_a_whole_one() -> None:
    splits = load_data("digits", 8)
    whole = list(train_batches(splits, batch_size=200, seed=1, epoch=4, device=CPU))
    rest = list(train_batches(splits, batch_size=200, seed=1, epoch=4, device=CPU, first=3))
    assert len(whole) == 7 == steps_per_epoch(splits.train, 200) and len(rest) == 4
    for (images, labels), (images_again, labels_again) in zip(whole[3:], rest, strict=True):
        assert torch.equal(images, images_again) and torch.equal(labels, labels_again)


def test_validation_batches_cover_the_set_in_order() -> None:
    splits = load_data("digits", 8)
    labels = torch.cat([labels for _, labels in val_batches(splits, batch_size=100, device=CPU)])
    assert torch.equal(labels, splits.val.labels)


def test_cifar10_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    rng = np.random.default_rng(0)
    rows = {}
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        rows[name] = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        (base / name).write_bytes(pickle.dumps({"data": rows[name], "labels": [0, 1, 2, 3]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    for root in (tmp_path, base):
        splits = load_data(f"cifar10:{root}")
        assert (len(splits.train), len(splits.val), splits.num_classes) == (20, 4, 10)
        assert isinstance(splits.train, MemoryImages)
        assert torch.equal(splits.train.images[5].flatten(), torch.from_numpy(rows["data_batch_2"][1]))
    assert load_data(f"cifar10:{tmp_path}", 24, in_chans=1).image_shape == (1, 24, 24)
    (base / "data_batch_3").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match=r"cannot read CIFAR-10 in .*; unpack it again"):
        load_data(f"cifar10:{tmp_path}")
    alone = load_data(f"cifar10:{tmp_path}", only="val").val  # the file that is no pickle is not read
    assert isinstance(alone, MemoryImages) and isinstance(splits.val, MemoryImages)
    assert torch.equal(alone.images, splits.val.images)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "mnist",
            "data='mnist' is unknown; give digits, cifar10:PATH, folder:PATH, torchvision:NAME=PATH, "
            "parquet:PATH or webdataset:PATH",
        ),
        (
            "digits:/tmp",
            "data='digits:/tmp' is unknown; give digits, cifar10:PATH, folder:PATH, torchvision:NAME=PATH, "
            "parquet:PATH or webdataset:PATH",
        ),
        ("folder:", "data='folder:' names no folder; give folder:PATH"),
        ("folder:/no/such", "data path '/no/such' does not exist; give folder:PATH of an existing folder"),
        ("cifar10:/no/such", "data path '/no/such' does not exist; give cifar10:PATH of an existing folder"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_data(spec)


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="image_size=0 is too small"):
        load_data("digits", 0)
    with pytest.raises(ValueError, match=r"in_chans=2 is out of range; give 3 \(RGB\) or 1"):
        load_data("digits", in_chans=2)


def test_cifar10_without_its_folder_names_the_other_kind(image_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no cifar-10-batches-py/ in .* \(found: test, train\); .* give folder:"):
        load_data(f"cifar10:{image_folder}")


def test_a_folder_without_classes_says_what_is_expected_and_found(tmp_path: Path, image_folder: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    expected = "expected PATH/train/CLASS/IMAGE and PATH/val/CLASS/IMAGE"
    with pytest.raises(ValueError, match=f"no class folders in .*: {expected}.*; found no folders"):
        load_data(f"folder:{empty}")
    with pytest.raises(ValueError, match=f"no class folders in .*: {expected}.*; found folders cat, dog"):
        load_data(f"folder:{image_folder / 'train'}")
    (empty / "train").mkdir()
    (empty / "test").mkdir()
    with pytest.raises(ValueError, match=f"no class folders in .*train.*: {expected}.*; found none below 'train'"):
        load_data(f"folder:{empty}")


def test_an_empty_class_is_named(image_folder: Path) -> None:
    for path in (image_folder / "test/dog").iterdir():
        path.unlink()
    (image_folder / "test/dog/notes.txt").touch()
    with pytest.raises(ValueError, match=r"class folder '.*test/dog' has no images \(\.bmp, "):
        load_data(f"folder:{image_folder}")


def test_classes_that_differ_are_named(image_folder: Path) -> None:
    write_images(image_folder / "test", {"fox": 1})
    with pytest.raises(ValueError, match=r"classes of train and test in .* differ: only test has 'fox'"):
        load_data(f"folder:{image_folder}")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_corrupt_image_is_named_in_one_line(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    if streamed:
        monkeypatch.setattr(data_module, "MEMORY_LIMIT_BYTES", 100)
    corrupt = image_folder / "train/dog/002.png"
    corrupt.write_bytes(corrupt.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"^cannot decode image '.*train/dog/002\.png' \(.*\); replace or remove it$"):
        splits = load_data(f"folder:{image_folder}")
        list(train_batches(splits, batch_size=11, seed=0, epoch=0, device=CPU, workers=1))


def test_images_of_other_sizes_are_named_and_image_size_mends_it(image_folder: Path) -> None:
    write_images(image_folder / "train", {"dog": 1}, side=9)
    with pytest.raises(ValueError, match=r"'.*dog/000\.png' is 9×9, other images are 8×8; give image_size"):
        load_data(f"folder:{image_folder}")
    assert load_data(f"folder:{image_folder}", 8).image_shape == (3, 8, 8)


def test_a_batch_larger_than_the_set() -> None:
    with pytest.raises(ValueError, match="batch_size=2000 is more than the 1437 training images; give a smaller one"):
        steps_per_epoch(load_data("digits", 8).train, 2000)


def test_cifar10_image_folder(tmp_path: Path, cifar10: Path) -> None:
    """A part of the real set: the first images of two classes."""
    wanted = re.compile(r"(?:.*/)?(train|test)/(airplane|automobile)/[^/]*\.png")
    counts = dict.fromkeys([(split, name) for split in ("train", "test") for name in ("airplane", "automobile")], 0)
    if cifar10.is_dir():
        for path in sorted(cifar10.rglob("*.png")):
            match = wanted.fullmatch(str(path))
            if match and counts[match.group(1, 2)] < 50:
                counts[match.group(1, 2)] += 1
                target = tmp_path.joinpath("cifar10", *match.group(1, 2), path.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    else:
        with tarfile.open(cifar10) as archive:
            for member in archive:
                match = wanted.fullmatch(member.name)
                if match and counts[match.group(1, 2)] < 50:
                    counts[match.group(1, 2)] += 1
                    archive.extract(member, tmp_path, filter="data")
                if min(counts.values()) == 50:
                    break  # the archive has 60,000 more
    splits = load_data(f"folder:{tmp_path}")
    assert splits.classes == ("airplane", "automobile") and splits.image_shape == (3, 32, 32)
    assert len(splits.train) == len(splits.val) == 100
    assert all(0.3 < mean < 0.6 for mean in splits.mean) and all(0.1 < std < 0.4 for std in splits.std)


@pytest.fixture
def cifar10() -> Path:
    """The folder that LOWMODE_CIFAR10 names, or the archive beside the repository."""
    path = Path(os.environ.get("LOWMODE_CIFAR10") or REPOSITORY.parent / "shared" / "data" / "cifar10.tar")
    if not path.exists():
        pytest.skip(f"CIFAR-10 is not here: no {path}; LOWMODE_CIFAR10 may name a folder of images")
    return path
