"""What becomes of each kind of image file, by plain Pillow and numpy; what has no plain meaning is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from training import write_images

from lowmode_fx.train.data import load_data
from lowmode_fx.train.decode import decode, pixels

RAMP = np.linspace(0, 65535, 32 * 32).reshape(32, 32)


def saved(path: Path, values: np.ndarray | Image.Image, **options: object) -> Path:
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_keep_their_256_levels(tmp_path: Path, ending: str, channels: int) -> None:
    image = decode(saved(tmp_path / f"x.{ending}", RAMP.astype(np.uint16)), None, channels)
    right = torch.from_numpy(RAMP.astype(np.uint16).astype(np.int64) >> 8)
    assert image.shape == (channels, 32, 32) and len(image.unique()) == 256
    assert all(torch.equal(channel.long(), right) for channel in image)


def test_floats_are_read_from_0_to_1_and_others_are_refused(tmp_path: Path) -> None:
    unit = (RAMP / 65535).astype(np.float32)
    image = decode(saved(tmp_path / "unit.tif", unit), None, 1)
    assert torch.equal(image[0], torch.from_numpy((unit * 255).round().astype(np.uint8)))
    wide = unit * 3000 - 1000
    for values, told in ((wide, "floats from -1000 to 2000"), (np.full((4, 4), np.nan, np.float32), "from nan to nan")):
        with pytest.raises(ValueError, match=rf"^image '.*x\.tif' holds .*{told}; scale them to \[0, 1\]"):
            decode(saved(tmp_path / "x.tif", values), None, 1)


def test_integers_of_32_bits_and_stacks_of_pages_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^image '.*deep\.tif' holds integers of 32 bits"):
        decode(saved(tmp_path / "deep.tif", RAMP.astype(np.int32)), None, 1)
    page = Image.new("L", (4, 4))
    stack = saved(tmp_path / "stack.tif", page, save_all=True, append_images=[page, page])
    with pytest.raises(ValueError, match=r"^image '.*stack\.tif' has 3 pages; save each page as an image of its own$"):
        decode(stack, None, 3)


@pytest.mark.parametrize("side", [32, 224, 299])
def test_images_of_any_sides_are_fitted_in_a_whole_square(side: int) -> None:
    """A side times its own scale is not always itself again: a crop must not begin before the image."""
    for height in range(side // 2, 2 * side, 3):
        for width in (side, height, height + 1, 2 * side):
            image = pixels(Image.new("L", (width, height), 7), (side, side), 1)
            assert image.shape == (1, side, side) and int(image.min()) == 7, (height, width)


def test_the_first_picture_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), grey) for grey in (10, 200)]
    path = saved(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decode(path, None, 1).unique().tolist() == [10]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_photos_are_turned_as_their_tag_says(tmp_path: Path, turn: int, deep: bool) -> None:
    values = np.arange(6 * 4).reshape(6, 4)
    tags = Image.Exif()
    tags[0x0112] = turn
    pixels = (values << 8).astype(np.uint16) if deep else values.astype(np.uint8)
    path = saved(tmp_path / "x.png", pixels, exif=tags)
    with Image.open(path) as stored:
        right = np.asarray(ImageOps.exif_transpose(stored)).astype(np.int64) >> (8 if deep else 0)
    assert decode(path, None, 1)[0].tolist() == right.tolist()
    assert turn < 5 or right.shape == (4, 6)


def test_hidden_colours_of_transparent_pixels_are_not_seen(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 0] = 250  # red everywhere, and seen in one pixel alone
    pixels[0, 0, 3] = 255
    pixels[1, 1, 3] = 51  # a fifth
    path = saved(tmp_path / "x.png", pixels)
    image = decode(path, None, 3)
    assert image[:, 0, 0].tolist() == [250, 0, 0] and image[:, 0, 1].tolist() == [255, 255, 255]
    assert image[:, 1, 1].tolist() == [254, 204, 204]
    assert torch.equal(decode(path, None, 4), torch.from_numpy(pixels).permute(2, 0, 1))  # as stored
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 100, 100, 100])
    assert decode(saved(tmp_path / "p.png", palette, transparency=0), None, 1).flatten().tolist() == [255, 100]


def test_bands_beyond_three_are_not_dropped(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tif", Image.new("RGBX", (4, 4)))
    with pytest.raises(ValueError, match=r"^image '.*x\.tif' has 4 bands, of which 3 would be read; save those"):
        decode(path, None, 3)
    with pytest.raises(ValueError, match=r"^image '.*rgb\.png' has 3 bands, not 4$"):
        decode(saved(tmp_path / "rgb.png", Image.new("RGB", (4, 4))), None, 4)


def test_printed_colours(tmp_path: Path) -> None:
    for colour, right in (((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0)):
        path = saved(tmp_path / "x.jpg", Image.new("CMYK", (8, 8), colour))
        assert (decode(path, None, 3).long() - right).abs().max() <= 1


def test_an_image_that_is_too_large_is_reported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2 * 10**6)
    path = saved(tmp_path / "x.png", Image.new("L", (3000, 2000)))
    with pytest.raises(ValueError, match=r"^image '.*x\.png' has more than 4 million pixels; scale it down first$"):
        decode(path, None, 1)


def folder_of(root: Path, values: np.ndarray, ending: str = "png") -> str:
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (root / place).mkdir(parents=True)
        saved(root / place / f"0.{ending}", values)
    return f"folder:{root}"


def test_images_that_hardly_differ_and_depth_that_is_hardly_used_are_reported(tmp_path: Path) -> None:
    flat = np.full((8, 8, 3), 7, np.uint8)
    flat[:4, :, 0] = 90
    (note,) = load_data(folder_of(tmp_path / "flat", flat)).notes
    assert re.match(r"the training images hardly differ in channel 1, 2: deviation 0\.0039", note)
    twelve = (RAMP / 16).astype(np.uint16)  # 12 of 16 bits
    (note,) = load_data(folder_of(tmp_path / "twelve", twelve), in_chans=1).notes
    assert note.startswith("no training pixel is above 15 of 255: files that use a part of their depth")


def test_a_folder_of_large_images_gives_no_words_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    write_images(tmp_path / "train", {"a": 1, "b": 1})
    write_images(tmp_path / "val", {"a": 1, "b": 1})
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_data(f"folder:{tmp_path}").train) == 2
