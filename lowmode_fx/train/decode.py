"""One image file to uint8 pixels, as the eye sees it (turned upright, transparent parts white) or the sensor has it."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from passes.wording import one_line

_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # integers of more than 8 bits
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_FOUR_BANDS = ("RGBA", "RGBX", "CMYK")
_REDUCED = 1  # of the TIFF tag NewSubfileType: a page that is a smaller version of another
_PAGES_TAG, _BANDS_TAG = 254, 277


def decode(
    file: Path | io.BytesIO, size: tuple[int, int] | None, in_chans: int, name: str | None = None
) -> torch.Tensor:
    """One image file as uint8 (C, H, W), as ``pixels`` makes it.

    name: of a file that lies in memory. Raises ``ValueError`` with the file's name when it can't be decoded, or can't
    be taken as it is.
    """
    path = name or repr(str(file))
    try:
        with Image.open(file) as opened:
            return pixels(opened, size, in_chans)
    except _NotTaken as error:
        raise ValueError(f"image {path} {error}") from None
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ValueError(f"image {path} has more than {limit} million pixels; scale it down first") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        raise ValueError(f"cannot decode image {path} ({one_line(error)}); replace or remove it") from error


# By Pillow: torchvision's ``decode_image`` reads neither TIFF nor BMP nor PPM, and no colour profiles.
def pixels(image: Image.Image, size: tuple[int, int] | None, in_chans: int) -> torch.Tensor:
    """An image as uint8 (C, H, W), rotated by its EXIF tag.

    16 bits are scaled to 8, floats from [0, 1]; transparent parts are laid on white; of an animation the first picture
    is taken. in_chans: 1 (grey), 3 (RGB), or 4, the bands as stored. size: (H, W); the middle of the image is cropped
    to its sides' ratio first.

    Raises ``ValueError`` for what has no plain meaning in 8 bits, as a stack of pages.
    """
    _check_pages(image)
    _check_bands(image)
    upright = ImageOps.exif_transpose(image)
    shown = _in_bands(_in_8_bits(upright, image.format), in_chans)
    if size is not None and (shown.height, shown.width) != size:
        shown = _fitted(shown, size)
    found = np.array(shown, dtype=np.uint8)  # a copy: Pillow's own buffer is read-only
    return torch.from_numpy(found[:, :, None] if found.ndim == 2 else found).permute(2, 0, 1).contiguous()


class _NotTaken(ValueError):
    """What is wrong with an image, in words that go after its name."""


def _check_pages(image: Image.Image) -> None:
    """A TIFF of several pages is a stack or a series: the first alone would be a part of the image."""
    if image.format != "TIFF" or getattr(image, "n_frames", 1) == 1:
        return
    pages = 0
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        pages += not int(getattr(image, "tag_v2", {}).get(_PAGES_TAG, 0)) & _REDUCED
    image.seek(0)
    if pages > 1:
        raise _NotTaken(f"has {pages} pages; save each page as an image of its own")


def _check_bands(image: Image.Image) -> None:
    """Of a TIFF with bands beyond red, green and blue Pillow reads the first three, without a word."""
    stored = int(getattr(image, "tag_v2", {}).get(_BANDS_TAG, 0))
    if stored > len(image.getbands()):
        raise _NotTaken(f"has {stored} bands, of which {len(image.getbands())} would be read; save those that you mean")


def _in_8_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """Grey images of 16 bits or of floats scaled to 8 bits; others as they are."""
    if image.mode in _DEEP:
        values = np.asarray(image).astype(np.int64)
        # Pillow gives PNGs and PGMs of 16 bits as integers of 32, and TIFFs of 32 bits too.
        if image.mode == "I" and file_format not in ("PNG", "PPM"):
            raise _NotTaken("holds integers of 32 bits, which have no common scale; save it with 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        floats = np.asarray(image)
        least, most = float(floats.min()), float(floats.max())
        if not (least >= 0 and most <= 1):  # not-a-number fails too
            raise _NotTaken(f"holds floats from {least:g} to {most:g}; scale them to [0, 1], or save 8 or 16 bits")
        return Image.fromarray((floats * 255).round().astype(np.uint8))
    return image


def _in_bands(image: Image.Image, in_chans: int) -> Image.Image:
    """RGB or grey, or the four bands that are stored."""
    if in_chans == 4:
        if image.mode not in _FOUR_BANDS:
            raise _NotTaken(f"has {len(image.getbands())} bands, not 4")
        return image
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    elif image.mode == "CMYK":
        image = _printed(image)
    return image.convert("RGB" if in_chans == 3 else "L")


def _printed(image: Image.Image) -> Image.Image:
    """CMYK by the colour profile in the file, where it has one that can be read."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    except ImageCms.PyCMSError:
        return image


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(image.height / size[0], image.width / size[1])
    # Of a side that is whole the product may be larger by its last bit, and a crop begin before the image.
    height, width = min(size[0] * scale, image.height), min(size[1] * scale, image.width)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)


@contextlib.contextmanager
def quiet_large_images() -> Iterator[None]:
    """Pillow warns of images above half of what it refuses; they are read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
