"""Random image folders such as users have: most files are valid, some are not."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = ("png", "jpg", "bmp", "tif", "gif", "webp")
MODES = ("RGB", "L", "RGBA", "P", "I;16", "1", "CMYK")


def draw_folder(rng: random.Random, root: Path) -> list[str]:
    """Write ``train`` and ``test`` with classes of 8×8 images and, mostly, something irregular; return what."""
    pixels = np.random.default_rng(rng.randrange(2**32))
    classes = rng.sample(["cat", "dog", "Ärger", "a b", "ünï", "0", "..x", "naïve, class"], rng.randint(1, 3))
    told = []
    for part in ("train", rng.choice(("test", "val", "valid"))):
        for name in classes:
            for number in range(rng.randint(2, 5)):
                mode, suffix = ("RGB", "png") if rng.random() < 0.7 else (rng.choice(MODES), rng.choice(SUFFIXES))
                _write(root / part / name / f"{number}.{suffix}", mode, pixels)
    for _ in range(rng.randint(0, 2)):
        kind = rng.choice(list(ODDITIES))
        told.append(kind)
        ODDITIES[kind](rng, root, root / "train" / classes[0], pixels)
    return told


def _write(path: Path, mode: str, pixels: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        image = Image.fromarray(pixels.integers(0, 2**16, (8, 8), dtype=np.uint16))
    else:
        image = Image.fromarray(pixels.integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)
    try:
        image.save(path)
    except (OSError, KeyError, ValueError):  # a format that has no such mode
        image.convert("RGB").save(path)


def _file(name: str, content: bytes):  # type: ignore[no-untyped-def]
    def write(rng: random.Random, root: Path, folder: Path, pixels: np.random.Generator) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def _truncated(rng: random.Random, root: Path, folder: Path, pixels: np.random.Generator) -> None:
    path = folder / "cut.png"
    _write(path, "RGB", pixels)
    path.write_bytes(path.read_bytes()[: rng.randint(0, 60)])


def _other_size(rng: random.Random, root: Path, folder: Path, pixels: np.random.Generator) -> None:
    size = (rng.randint(1, 30), rng.randint(1, 30), 3)
    Image.fromarray(pixels.integers(0, 256, size, dtype=np.uint8)).save(folder / "size.png")


def _empty_class(rng: random.Random, root: Path, folder: Path, pixels: np.random.Generator) -> None:
    (root / "train" / "nothing").mkdir(parents=True)


def _one_sided(rng: random.Random, root: Path, folder: Path, pixels: np.random.Generator) -> None:
    _write(root / "train" / "only here" / "0.png", "RGB", pixels)


def _nested(rng: random.Random, root: Path, folder: Path, pixels: np.random.Generator) -> None:
    _write(folder / "deeper" / "0.png", "RGB", pixels)


def _folder_like_an_image(rng: random.Random, root: Path, folder: Path, pixels: np.random.Generator) -> None:
    (folder / "folder.png").mkdir(exist_ok=True)


def _dangling(rng: random.Random, root: Path, folder: Path, pixels: np.random.Generator) -> None:
    (folder / "gone.png").symlink_to("nowhere.png")


def _not_utf8(rng: random.Random, root: Path, folder: Path, pixels: np.random.Generator) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    for part in [child for child in root.iterdir() if child.is_dir()]:
        _write(part / name / "0.png", "RGB", pixels)


ODDITIES = {
    "a text file": _file("notes.txt", b"not an image"),
    "text that is called an image": _file("notes.png", b"not an image"),
    "an empty image": _file("empty.png", b""),
    "AppleDouble": _file("._0.png", b"\x00\x05\x16\x07"),
    "Thumbs.db": _file("Thumbs.db", b"\xd0\xcf"),
    "a cut image": _truncated,
    "another size": _other_size,
    "an empty class": _empty_class,
    "a class of one side": _one_sided,
    "a folder in a class": _nested,
    "a folder like an image": _folder_like_an_image,
    "a dangling link": _dangling,
    "a class that is no UTF-8": _not_utf8,
}
