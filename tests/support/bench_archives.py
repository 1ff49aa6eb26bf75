"""Archives of made-up images, as the benchmarks on a GPU read CIFAR-10."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog")


def sheet(split: str, label: str, page: int) -> np.ndarray:
    """uint8 (100, 32, 32, 3): of a split, a class and a page, always the same."""
    seed = [len(split), CLASSES.index(label), page]
    return np.random.default_rng(seed).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)


def write_archives(folder: Path) -> list[Path]:
    """``cifar10_a.zip`` with two pages a class for training and one for tests, ``cifar10_b.zip`` with one more."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "cifar10_a.zip": [("test", 0), ("train", 0), ("train", 1)],
        "cifar10_b.zip": [("train", 20)],
    }
    for name, pages in contents.items():
        with zipfile.ZipFile(folder / name, "w") as archive:
            for split, page in pages:
                for label in CLASSES:
                    archive.writestr(f"{split}/{label}/{page:02}.webp", _encoded(sheet(split, label, page)))
    return [folder / name for name in contents]


def _encoded(tiles: np.ndarray) -> bytes:
    page = Image.new("RGB", (320, 320))
    for place, tile in enumerate(tiles):
        page.paste(Image.fromarray(tile), (32 * (place % 10), 32 * (place // 10)))
    out = io.BytesIO()
    page.save(out, "WEBP", lossless=True)
    return out.getvalue()
