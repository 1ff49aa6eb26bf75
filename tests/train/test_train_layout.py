"""Image folders as they come: several splits, nested files, what lies beside them, and layouts that are refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder
from training import quick_settings, tiny_model, write_images

from lowmode_fx.train import RunFolder, load_data, train
from lowmode_fx.train import data as data_module
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.layout import scan_folder


def grey_images(folder: Path, number: int, grey: int) -> None:
    folder.mkdir(parents=True)
    for each in range(number):
        Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(folder / f"{each}.png")


def splits_in(root: Path, **greys: int) -> None:
    for number, (name, grey) in enumerate(greys.items(), start=1):
        for label in "ab":
            grey_images(root / name / label, number, grey)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_val_is_validated_on_and_test_is_kept_for_the_end(tmp_path: Path, name: str) -> None:
    splits_in(tmp_path, train=10, **{name: 20}, test=30)
    data = load_data(f"folder:{tmp_path}")
    assert isinstance(data.val, MemoryImages) and isinstance(data.test, MemoryImages)
    assert (len(data.train), len(data.val), len(data.test)) == (2, 4, 6)
    assert data.val.images.unique().tolist() == [20] and data.test.images.unique().tolist() == [30]


def test_the_test_accuracy_is_that_of_the_test_images(tmp_path: Path) -> None:
    """Of the validation images all are of class a, of the test images three in four of class b."""
    write_images(tmp_path / "train", {"a": 8, "b": 8})
    write_images(tmp_path / "val", {"a": 3, "b": 1})
    write_images(tmp_path / "test", {"a": 1, "b": 9})
    data = load_data(f"folder:{tmp_path}")
    model = tiny_model(2)
    model[-1].weight.data.zero_()
    model[-1].bias.data[:] = model[-1].bias.data.new_tensor([100.0, 0.0])  # always a
    result = train(model, data, quick_settings(epochs=1, batch_size=8, lr=1e-9), quiet=True)
    assert (result.final_accuracy, result.test_accuracy) == (0.75, 0.1)
    assert result.summary()["test_accuracy"] == 0.1


def test_without_val_it_is_reported_that_test_is_validated_on(tmp_path: Path) -> None:
    splits_in(tmp_path, train=10, test=30)
    layout = scan_folder(tmp_path)
    assert layout.test is None and len(layout.val.paths) == 4
    assert layout.notes == ("validation is on 'test', as there is no 'val': its accuracy is none of unseen images",)


def test_files_at_any_depth_below_a_class_are_used_as_torchvision_uses_them(tmp_path: Path) -> None:
    splits_in(tmp_path, train=10, val=20)
    for label in "ab":
        grey_images(tmp_path / "train" / label / "2024" / "march", 5, 10)
        grey_images(tmp_path / "train" / label / "images", 1, 10)
    right = ImageFolder(tmp_path / "train")
    layout = scan_folder(tmp_path)
    assert len(right) == 2 * (1 + 5 + 1)
    assert list(zip(map(str, layout.train.paths), layout.train.labels, strict=True)) == right.samples
    assert layout.notes == ("12 of 14 training images lie in subfolders of their class, and are used",)


def test_masks_beside_the_images_of_a_class(tmp_path: Path) -> None:
    splits_in(tmp_path, val=20)
    for label in "ab":
        for part in ("images", "masks"):
            grey_images(tmp_path / "train" / label / part, 2, 10)
    with pytest.raises(ValueError, match=r"class folder '.*train/a' holds 'images' and 'masks', and all files below"):
        scan_folder(tmp_path)


def test_what_is_ignored_is_counted_by_kind(tmp_path: Path) -> None:
    splits_in(tmp_path, train=10, val=20)
    (tmp_path / "__MACOSX").mkdir()
    for name in ("._0.png", "0.tga", "1.tga", "notes", ".DS_Store", "deep/__MACOSX/0.png"):
        path = tmp_path / "train" / "a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "train" / "__MACOSX").mkdir()
    layout = scan_folder(tmp_path)
    assert len(layout.train.paths) == 2 and layout.classes == ("a", "b")
    assert layout.notes == (
        "6 files are ignored, being no images that are read: 2 .tga, 1 hidden, 2 of macOS (._*), 1 without a suffix",
    )


def test_a_test_set_without_labels_is_left_unread_and_reported(tmp_path: Path) -> None:
    splits_in(tmp_path, train=10, val=20)
    grey_images(tmp_path / "test" / "images", 3, 30)
    layout = scan_folder(tmp_path)
    assert layout.test is None
    assert layout.notes == ("'test' is left unread: its folders are not the classes of train",)


def test_tiny_imagenet_s_layout(tmp_path: Path) -> None:
    for label in ("n01443537", "n01629819"):
        grey_images(tmp_path / "train" / label / "images", 2, 10)
    grey_images(tmp_path / "val" / "images", 2, 20)
    (tmp_path / "val" / "val_annotations.txt").write_text("0.png\tn01443537\t0\t32\t44\t62\n")
    with pytest.raises(ValueError, match=r"'.*/val' tells its classes in val_annotations\.txt, as Tiny-ImageNet does"):
        scan_folder(tmp_path)


def test_a_contest_s_layout(tmp_path: Path) -> None:
    grey_images(tmp_path / "train", 2, 10)
    grey_images(tmp_path / "test", 2, 20)
    (tmp_path / "train.csv").write_text("id,label\n0.png,a\n")
    told = r"found none below 'train', but images side by side, and labels in train\.csv; move each into a"
    with pytest.raises(ValueError, match=told):
        scan_folder(tmp_path)


def test_a_detector_s_layout(tmp_path: Path) -> None:
    for split in ("train", "val"):
        grey_images(tmp_path / split / "images", 2, 10)
        (tmp_path / split / "labels").mkdir()
    with pytest.raises(ValueError, match=r"holds images and labels, the layout of a set for detection"):
        scan_folder(tmp_path)


def test_a_class_whose_name_is_no_utf_8_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    splits_in(tmp_path, train=10, val=20)
    os.mkdir(os.fsencode(tmp_path / "train") + b"/caf\xe9")
    with pytest.raises(ValueError, match=r"class folder '.*caf\\udce9' has a name that is no UTF-8 text; rename it"):
        scan_folder(tmp_path)


def test_a_file_whose_name_is_no_utf_8_is_read_and_named(tmp_path: Path) -> None:
    splits_in(tmp_path, train=10, val=20)
    strange = Path(os.fsdecode(os.fsencode(tmp_path / "train" / "a") + b"/caf\xe9.png"))
    (tmp_path / "train/a/0.png").rename(strange)
    assert len(load_data(f"folder:{tmp_path}").train) == 2
    strange.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"caf\\udce9\.png") as raised:
        load_data(f"folder:{tmp_path}")
    str(raised.value).encode()  # can be printed


def test_a_test_image_that_cannot_be_read_at_the_end_costs_its_accuracy_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val", "test"):
        write_images(tmp_path / split, {"a": 4, "b": 4})
    monkeypatch.setattr(data_module, "MEMORY_LIMIT_BYTES", 100)  # files stay files
    data = load_data(f"folder:{tmp_path}")
    (tmp_path / "test/b/001.png").write_bytes(b"broken")
    result = train(
        tiny_model(2), data, quick_settings(epochs=1, batch_size=8, workers=0), RunFolder.open(tmp_path / "run")
    )
    assert result.test_accuracy is None and len(result.records) == 1
    assert re.search(
        r"no test accuracy: cannot decode image '.*test/b/001\.png'", " ".join(capsys.readouterr().out.split())
    )
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "complete"
