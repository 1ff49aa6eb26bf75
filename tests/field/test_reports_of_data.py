"""Public reports on images, folders, losses and counts: each as a small case with the value that is right.

The first line of a test names where it was met; docs/models.md has the list.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image, ImageOps
from torch import nn
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs
from torchvision.ops import DeformConv2d
from training import digits, quick_settings, tiny_model, write_images

from lowmode_fx import build_pair, count_flops, count_step_flops
from lowmode_fx.train import load_data, train
from lowmode_fx.train.decode import decode
from lowmode_fx.train.images import MemoryImages
from lowmode_fx.train.loss import classification_loss


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("val", 2)):
        write_images(tmp_path / split, {"cat": count, "dog": count})
    return tmp_path


def test_notebook_checkpoints_are_no_class(folder: Path) -> None:
    """pytorch/vision#2831: a hidden .ipynb_checkpoints was taken for a class, and labels were off by one."""
    write_images(folder / "train", {".ipynb_checkpoints": 1})
    data = load_data(f"folder:{folder}")
    assert data.classes == ("cat", "dog") and data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_ds_store_is_no_image(folder: Path) -> None:
    """fastai/fastai#488: a .DS_Store in a class folder ended the run."""
    (folder / "train/cat/.DS_Store").write_bytes(b"Bud1")
    data = load_data(f"folder:{folder}")
    assert len(data.train) == 6 and data.notes == ("1 file is ignored, being no images that are read: 1 hidden",)


def test_a_corrupt_image_is_named_before_the_first_step(folder: Path) -> None:
    """pytorch/vision#864: one corrupt file of many stopped a training in its middle, without a name."""
    (folder / "train/dog/001.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ValueError, match=r"cannot decode image '.*dog/001\.png'"):
        load_data(f"folder:{folder}")


def test_an_empty_class_is_named(folder: Path) -> None:
    """pytorch/vision#8297: an empty class folder."""
    (folder / "val/dog/000.png").unlink()
    (folder / "val/dog/001.png").unlink()
    with pytest.raises(ValueError, match=r"class folder '.*val/dog' has no images"):
        load_data(f"folder:{folder}")


def test_validation_images_of_another_size(folder: Path) -> None:
    """qubvel/segmentation_models#282: training images had the right size, validation images another."""
    write_images(folder / "val", {"cat": 2, "dog": 2}, side=9)
    with pytest.raises(ValueError, match="images are 8×8 in train and 9×9 in validation; give image_size"):
        load_data(f"folder:{folder}")


@pytest.mark.parametrize("where", ["phone", "file manager"])
def test_turned_photos(tmp_path: Path, where: str) -> None:
    """pytorch/vision#7977, kohya-ss/sd-scripts#1316, huggingface/datasets#6252: turned by an EXIF tag alone."""
    tags = Image.Exif()
    tags[0x0112] = 6 if where == "phone" else 3
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=tags)
    with Image.open(tmp_path / "x.png") as stored:
        right = torch.from_numpy(np.array(ImageOps.exif_transpose(stored))).permute(2, 0, 1)
    assert torch.equal(decode(tmp_path / "x.png", None, 3), right)


def test_16_bits_are_neither_white_nor_black(tmp_path: Path) -> None:
    """huggingface/pytorch-image-models#831, ultralytics/yolov5#8481, junyanz/pytorch-CycleGAN-and-pix2pix#321."""
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / "x.png")
    image = decode(tmp_path / "x.png", None, 3).float()
    assert len(image.unique()) == 256 and image.mean() == 127.5


def test_alpha_is_not_just_dropped(tmp_path: Path) -> None:
    """pytorch/vision#5510: stripping an alpha channel changes what is seen."""
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", None, 3).flatten(1).T.tolist() == [[200, 0, 0], [255, 255, 255]]


def test_four_channels_on_request(tmp_path: Path) -> None:
    """pytorch/vision#561, pytorch/vision#2276: RGBA was wanted, and silently made RGB."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert torch.equal(decode(tmp_path / "x.png", None, 4), torch.from_numpy(pixels).permute(2, 0, 1))


def test_a_palette_with_transparency_in_bytes(tmp_path: Path) -> None:
    """layumi/University1652-Baseline#17: a warning of Pillow, and invisible colours."""
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "x.png", transparency=bytes([0, 255, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = decode(tmp_path / "x.png", None, 3).flatten(1).T.tolist()
    assert seen == [[255, 255, 255], [0, 255, 0], [0, 0, 255]]


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "heads"), [("googlenet", 2), ("inception_v3", 1)])
def test_auxiliary_heads(name: str, heads: int) -> None:
    """pytorch/vision#302, pytorch/examples#559: a tuple of logits, of which the first, or the last, was trained."""
    outputs_of: dict[int, Any] = {
        2: GoogLeNetOutputs,
        1: InceptionOutputs,
    }
    logits, labels = torch.randn(heads + 1, 5, 4), torch.tensor([0, 1, 2, 3, 0])
    right = F.cross_entropy(logits[0], labels) + 0.3 * sum(F.cross_entropy(each, labels) for each in logits[1:])
    torch.testing.assert_close(classification_loss(outputs_of[heads](*logits), labels), right)


def test_a_model_without_a_head() -> None:
    """huggingface/pytorch-image-models#2682: num_classes=0 and global_pool='' return maps."""
    model = timm.create_model("resnet10t", num_classes=0, global_pool="", channels=(8, 8, 8, 8))
    with pytest.raises(ValueError, match=r"model outputs have shape \(2, 8, 1, 1\), but digits has 10 classes"):
        train(model, digits(), quick_settings(epochs=1), quiet=True)


def test_fewer_outputs_than_classes() -> None:
    """spmallick/learnopencv#516: a label beyond the outputs, told by an assertion of a kernel."""
    with pytest.raises(ValueError, match=r"model outputs have shape \(2, 9\), but digits has 10 classes"):
        train(tiny_model(9), digits(), quick_settings(epochs=1), quiet=True)


def test_other_channels_than_the_models() -> None:
    """torchgeo/torchgeo#3279, open-mmlab/mmsegmentation#2351: bands that the first convolution does not take."""
    told = "images have 12 channels, but the model takes 3; build the model with in_chans=12$"
    with pytest.raises(ValueError, match=told):
        build_pair(timm.create_model("resnet10t"), torch.zeros(2, 12, 64, 64))
    build_pair(timm.create_model("resnet10t", in_chans=12), torch.zeros(2, 12, 64, 64))


# Counts --------------------------------------------------------------------------------------------------------------


def macs(model: nn.Module, *images: torch.Tensor) -> Any:
    pair = build_pair(nn.Sequential(nn.Conv2d(images[0].shape[1], images[0].shape[1], 3, padding=1), model), images[0])
    report = count_flops(pair)
    stem = next(layer for layer in report.layers if layer.name == "0")
    return report.full_macs - stem.full_macs, pair


def test_a_deformable_convolution_is_counted() -> None:
    """facebookresearch/fvcore#121: a deformable convolution counted as zero."""

    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = DeformConv2d(4, 6, 3, padding=1)

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return self.conv(maps, maps.new_zeros(len(maps), 18, *maps.shape[2:]))

    found, pair = macs(Deformed(), torch.zeros(2, 4, 8, 8))
    assert found == 64 * 6 * 4 * 9  # the taps
    assert count_flops(pair).other_macs["full"] == 64 * 4 * 4 * 9  # a sample between four pixels for each


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (4, 2), (2, 2)])
def test_transposed_convolutions_are_counted_once_for_each_input(groups: int, stride: int) -> None:
    """facebookresearch/fvcore#78, deepspeedai/DeepSpeed#8323, pytorch/pytorch#119806: too many, or none."""
    up = nn.ConvTranspose2d(4, 8, 3, stride=stride, padding=1, groups=groups, bias=False)
    found, pair = macs(up, torch.zeros(2, 4, 8, 8))
    right = 64 * 4 * 9 * 8 // groups
    assert found == right
    full, _ = count_step_flops(pair)
    stem = 64 * 4 * 4 * 9
    assert full == 2 * (2 * stem + 3 * right)  # the images want no gradient


def test_what_counts_as_nothing_is_listed() -> None:
    """facebookresearch/fvcore#143, facebookresearch/fvcore#129: operators left out, told by warnings alone."""

    class Gated(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(maps) * maps + F.gelu(maps)

    _, pair = macs(Gated(), torch.zeros(2, 4, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        free = count_flops(pair).free
    assert {"aten::sigmoid", "aten::mul", "aten::add", "aten::gelu"} <= set(free)


def test_the_labels_of_a_torchvision_folder_are_ours(folder: Path) -> None:
    """pytorch/vision#109: whatever else lies about, classes and order are those of ImageFolder."""
    right = torchvision.datasets.ImageFolder(folder / "train")
    data = load_data(f"folder:{folder}")
    assert list(data.classes) == right.classes and data.train.labels.tolist() == right.targets
    assert isinstance(data.train, MemoryImages)
    for index, (image, _) in enumerate(right):
        assert np.array_equal(data.train.images[index].permute(1, 2, 0).numpy(), np.array(image))
