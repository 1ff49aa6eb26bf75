"""Recipes of augmentation: what they do, by torchvision itself; the same pictures from anywhere and after a resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_checkpoint import assert_equal, final_state, stop_after
from torch import Tensor
from torchvision.transforms import v2
from training import digits, quick_run, quick_settings, tiny_model, tiny_net, write_images

from lowmode_fx import Augmentation, DeviceLoader
from lowmode_fx.loading.augmentation import UNCHANGED
from lowmode_fx.loading.draws import mix_seed, picture_seed
from lowmode_fx.loading.normalise import Normalise
from lowmode_fx.train import DataSplits, TrainSettings, load_data, train
from lowmode_fx.train import data as data_module
from lowmode_fx.train.augmenting import augmented
from lowmode_fx.train.batches import train_batches, val_batches
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.placement import images_on
from lowmode_fx.train.recipe import Recipe, read_recipe
from passes.errors import OptionError

pytestmark = pytest.mark.usefixtures("one_thread")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
BY_IMAGE = "resized_crop=0.3,flip,randaugment,erase=1"


def batches(splits: DataSplits, text: str, **changes: Any) -> list[tuple[Tensor, Tensor]]:
    options = {"batch_size": 4, "seed": 2, "epoch": 3, "device": CPU, **changes}
    return list(train_batches(augmented(splits, text), **options))


def assert_same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> None:
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_recipes_are_read() -> None:
    assert read_recipe("auto") == Recipe(crop=True, flip=None)
    assert read_recipe("none") == Recipe()
    assert read_recipe("standard") == Recipe(flip=None, numbers={"resized_crop": 0.08})
    strong = read_recipe(" strong ")
    assert strong.policies == ("randaugment",) and strong.by_image and strong.mixes
    assert strong.numbers == {"resized_crop": 0.08, "erase": 0.1, "mixup": 0.2, "cutmix": 1.0}
    assert read_recipe("auto,trivialaugment") == Recipe(True, None, ("trivialaugment",))
    assert not read_recipe("crop,flip,mixup=0.4").by_image


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "augment='' has no step ''; near matches: "),
        ("randaugmnet", "has no step 'randaugmnet'; near matches: randaugment"),
        ("standard,none", "has steps beside none; leave one or the others out"),
        ("crop,crop", "has crop twice; give each step once"),
        ("standard,crop", "crops twice; give crop, or resized_crop"),
        ("flip=0.5", "gives flip a number; give flip alone"),
        ("mixup=-1", "gives mixup '-1'; give a number from 0.01 to 100, as mixup=0.2"),
        ("mixup=nan", "gives mixup 'nan'; give a number"),
        ("erase=a", "gives erase 'a'; give a number from 0 to 1, as erase=0.1"),
    ],
)
def test_recipes_that_are_none(text: str, told: str) -> None:
    with pytest.raises(OptionError) as error:
        TrainSettings(augment=text)
    assert told in str(error.value)


def test_the_datas_own_changes_stay_and_flips_follow_the_data() -> None:
    assert augmented(digits(), "auto") is digits()
    assert augmented(digits(), "none").augmentation == UNCHANGED
    assert augmented(digits(), "auto,mixup").augmentation == Augmentation(1, False, 0.2)
    assert not augmented(digits(), "standard").augmentation.flip, "a digit that is mirrored is another sign"
    assert augmented(digits(), "resized_crop,flip").augmentation == Augmentation(0, True)


def test_each_image_is_changed_by_torchvision_with_draws_of_its_own() -> None:
    """Against a loop that is written out: by seed, epoch and place in the set; mirrored by the counters as ever."""
    images = torch.randint(0, 256, (23, 3, 9, 8), dtype=torch.uint8)
    source = MemoryImages(images, torch.arange(23))
    splits = DataSplits("random", source, source, tuple(map(str, range(23))), (0.3, 0.5, 0.7), (0.2,) * 3)
    state = torch.get_rng_state()
    found = batches(splits, BY_IMAGE)
    assert torch.equal(state, torch.get_rng_state())
    grey = [76, 128, 178]
    crop = v2.RandomResizedCrop((9, 8), scale=(0.3, 1), antialias=True)
    recipe = v2.Compose([crop, v2.RandAugment(fill=grey), v2.RandomErasing(1, value=grey)])
    changed = torch.empty_like(images)
    for place in range(23):
        torch.manual_seed(picture_seed(place, 2, 3))
        changed[place] = recipe(images[place])
    expected = DeviceLoader(
        *(changed, torch.arange(23), 4, True),
        drop_last=True,
        mean=splits.mean,
        std=splits.std,
        augmentation=Augmentation(flip=True),
        seed=2,
    )
    expected.set_epoch(3)
    assert_same(found, list(expected))
    unchanged = Normalise(splits.mean, splits.std, CPU)(images)
    assert sum(bool((unchanged == image).flatten(1).all(1).any()) for batch, _ in found for image in batch) < 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "train", {"cat": 14, "dog": 9})
    write_images(tmp_path / "val", {"cat": 3, "dog": 2}, seed=1)
    return tmp_path


@pytest.mark.parametrize("text", ["strong", "auto,augmix,cutmix", "crop,flip,mixup=1"])
def test_pictures_are_the_same_from_memory_and_files_whoever_reads_them(
    folder: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = load_data(f"folder:{folder}")
    monkeypatch.setattr(data_module, "MEMORY_LIMIT_BYTES", 100)
    streamed = replace(load_data(f"folder:{folder}"), mean=held.mean, std=held.std)
    whole = batches(held, text)
    for way in (batches(held, text, workers=2), batches(streamed, text), batches(streamed, text, workers=1)):
        assert_same(whole, way)
    assert_same(whole[2:], batches(held, text, first=2))
    assert not torch.equal(whole[0][0], batches(held, text, epoch=4)[0][0])
    validation = [list(val_batches(each, batch_size=2, device=CPU)) for each in (augmented(held, text), held)]
    assert_same(*validation)


def test_batches_are_mixed_by_torchvision() -> None:
    images, labels = torch.randint(0, 256, (12, 3, 6, 6), dtype=torch.uint8), torch.arange(12) % 5
    mixup, cutmix = v2.MixUp(alpha=0.4, num_classes=5), v2.CutMix(alpha=1.0, num_classes=5)
    changed = 0
    for augmentation, mix in (
        (Augmentation(mixup=0.4), mixup),
        (Augmentation(cutmix=1.0), cutmix),
        (Augmentation(mixup=0.4, cutmix=1.0), v2.RandomChoice([mixup, cutmix])),
    ):
        loader = DeviceLoader(images, labels, 4, True, augmentation=augmentation, seed=3, classes=5)
        plain = DeviceLoader(images, labels, 4, True, seed=3)
        loader.set_epoch(2)
        plain.set_epoch(2)
        for step, ((mixed, soft), batch) in enumerate(zip(loader, plain, strict=True)):
            torch.manual_seed(mix_seed(step, 3, 2, 0))
            wanted, shares = mix(*batch)
            assert torch.equal(mixed, wanted) and torch.equal(soft, shares) and soft.shape == (4, 5)
            torch.testing.assert_close(soft.sum(1), torch.ones(4))
            changed += not torch.equal(mixed, batch[0])
    assert changed > 5, "a share may be 1"
    with pytest.raises(ValueError, match="mixed labels are shares of all classes; give classes, how many there are"):
        DeviceLoader(images, labels, 4, augmentation=Augmentation(mixup=1))


@pytest.mark.parametrize(
    ("criterion", "text"), [("cross_entropy", "resized_crop,erase=0.5,mixup,cutmix"), ("bce", "auto,mixup,cutmix")]
)
def test_a_run_that_is_interrupted_ends_with_the_same_bits(
    criterion: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick_settings(epochs=2, augment=text, criterion=criterion, workers=0, milestones=())
    quick_run(settings, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 16)
        quick_run(settings, tmp_path / "run")
    quick_run(replace(settings, workers=1), tmp_path / "run", resume=True, net=tiny_net(seed=7))
    assert_equal(final_state(tmp_path / "straight"), final_state(tmp_path / "run"))
    with pytest.raises(ValueError, match=f"augment is 'auto', the run there has '{text}'"):
        quick_run(quick_settings(epochs=2, criterion=criterion, milestones=()), tmp_path / "run", resume=True)


def test_what_does_not_go_together() -> None:
    with pytest.raises(OptionError, match=r"label_smoothing=0\.1 has no meaning for mixed labels in criterion='bce'"):
        TrainSettings(augment="mixup", criterion="bce", label_smoothing=0.1)
    with pytest.raises(OptionError, match="mixes labels of 10 classes, and the model has 12 outputs; give a model"):
        train(tiny_model(12), digits(), quick_settings(augment="mixup"), quiet=True)
    four = MemoryImages(torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(OptionError, match="changes colours, and images have 4 channels; leave them out"):
        augmented(replace(digits(), train=four, val=four), "trivialaugment")


def test_images_that_are_changed_one_by_one_lie_on_the_host() -> None:
    by_image = augmented(digits(), "standard")
    assert images_on("auto", by_image, CPU) == "device" and images_on("auto", by_image, GPU) == "host"
    with pytest.raises(OptionError, match="data_on='device' holds images where they can't be changed one by one"):
        images_on("device", by_image, GPU)


def test_scaled_crops_are_cut_from_images_that_are_held_larger(folder: Path) -> None:
    """As 224 pixels are cut from 256: what a network sees has the size that was asked for."""
    assert read_recipe("strong").held_side(224) == 256 and read_recipe("standard").held_side(None) is None
    assert read_recipe("auto").held_side(224) == 224
    splits = load_data(f"folder:{folder}", 7, train_size=read_recipe("standard").held_side(7))
    assert splits.train.shape == (3, 8, 8) and splits.val.shape == splits.image_shape == (3, 7, 7)
    assert torch.equal(splits.train.images, load_data(f"folder:{folder}").train.images)  # type: ignore[attr-defined]
    (images, _), *_ = batches(splits, "resized_crop=1,flip")
    assert images.shape == (4, 3, 7, 7)
    with pytest.raises(ValueError, match="train_size=6 is too small; give an int of at least 7"):
        load_data(f"folder:{folder}", 7, train_size=6)
