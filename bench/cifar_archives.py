"""CIFAR-10 out of one or two small archives: sheets of 100 images each, as lossless WebP.

``cifar10_a.zip`` holds ``test/CLASS/NN.webp`` (all 10,000 images) and ``train/CLASS/NN.webp`` (20,000),
``cifar10_b.zip`` the other 30,000. A sheet has 10 × 10 tiles of 32 × 32, row by row. Needs Pillow.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE, TILES = 32, 10


class Split(NamedTuple):
    """images: uint8 (N, 3, 32, 32). labels: int64 (N,)."""

    images: Tensor
    labels: Tensor


def find_archives(data: Path) -> list[Path]:
    """The archives in a folder, or the archive itself. Raises ``FileNotFoundError`` if there is none."""
    found = [data] if data.is_file() else sorted(data.glob("cifar10_*.zip"))
    if not found:
        raise FileNotFoundError(f"no cifar10_a.zip in {data}; give the folder that holds it")
    return found


def load_archives(paths: Iterable[Path]) -> dict[str, Split]:
    """``{"train": …, "test": …}`` of all archives together; classes are numbered in the order of their names."""
    sheets = [(name, archive) for archive in map(zipfile.ZipFile, paths) for name in sorted(archive.namelist())]
    classes = sorted({name.split("/")[1] for name, _ in sheets})
    images: dict[str, list[Tensor]] = {}
    labels: dict[str, list[Tensor]] = {}
    for name, archive in sheets:
        split, label, _ = name.split("/")
        tiles = _tiles(archive.read(name))
        images.setdefault(split, []).append(tiles)
        labels.setdefault(split, []).append(torch.full((len(tiles),), classes.index(label)))
    return {split: Split(torch.cat(images[split]), torch.cat(labels[split])) for split in images}


def _tiles(data: bytes) -> Tensor:
    """The images of a sheet: uint8 (100, 3, 32, 32)."""
    page = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    tiles = torch.from_numpy(page.copy()).view(TILES, SIDE, TILES, SIDE, 3)
    return tiles.permute(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
