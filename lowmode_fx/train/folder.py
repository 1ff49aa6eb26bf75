"""Image folders: ``{train,test}/CLASS/*.png``, decoded once by a pool of threads or on the fly by loader workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lowmode_fx.train.images import MemoryImages
from lowmode_fx.utils.progress import track
from passes.wording import sides

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})
VAL_NAMES = ("test", "val", "valid", "validation")
EXPECTED = "expected PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE ('val' serves too)"


@dataclass(frozen=True)
class FolderPart:
    """The files of one split, sorted by class and name, with the number of each one's class."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class FolderLayout:
    train: FolderPart
    val: FolderPart
    classes: tuple[str, ...]


def _children(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def scan_folder(root: Path) -> FolderLayout:
    """Find the two splits and their classes below ``root``, or below the only folder in it.

    Raises ``ValueError`` that says which layout is expected and what was found instead.
    """
    children = _children(root)
    if len(children) == 1 and children[0].name != "train":
        inner = _children(children[0])
        if any(child.name == "train" for child in inner):
            root, children = children[0], inner
    names = [child.name for child in children]
    val_name = next((name for name in VAL_NAMES if name in names), None)
    if "train" not in names or val_name is None:
        found = f"folders {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else "no folders"
        raise ValueError(f"no class folders in {str(root)!r}: {EXPECTED}; found {found}")
    parts = {name: _scan_classes(root / name) for name in ("train", val_name)}
    train, val = parts["train"], parts[val_name]
    if set(train) != set(val):
        differing = sorted(set(train) ^ set(val))
        where = "train" if differing[0] in train else val_name
        raise ValueError(f"classes of train and {val_name} in {str(root)!r} differ: only {where} has {differing[0]!r}")
    classes = tuple(sorted(train))
    return FolderLayout(_number(train, classes), _number(val, classes), classes)


def _scan_classes(folder: Path) -> dict[str, list[Path]]:
    classes = {}
    for child in _children(folder):
        classes[child.name] = sorted(path for path in child.iterdir() if path.suffix.lower() in SUFFIXES)
        if not classes[child.name]:
            raise ValueError(f"class folder {str(child)!r} has no images ({', '.join(sorted(SUFFIXES))})")
    if not classes:
        raise ValueError(f"no class folders in {str(folder)!r}: {EXPECTED}; found none below {folder.name!r}")
    return classes


def _number(files: dict[str, list[Path]], classes: tuple[str, ...]) -> FolderPart:
    numbered = [(path, label) for label, name in enumerate(classes) for path in files[name]]
    return FolderPart(tuple(path for path, _ in numbered), tuple(label for _, label in numbered))


def decode(path: Path, size: tuple[int, int] | None, in_chans: int) -> torch.Tensor:
    """One image as uint8 (C, H, W). With ``size`` (H, W) the middle of the image is cropped to its sides' ratio first.

    Raises ``ValueError`` with the file's name when it cannot be decoded.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB" if in_chans == 3 else "L")
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot decode image {str(path)!r} ({reason}); replace or remove it") from error
    if size is not None and (image.height, image.width) != size:
        scale = min(image.height / size[0], image.width / size[1])
        height, width = size[0] * scale, size[1] * scale
        left, top = (image.width - width) / 2, (image.height - height) / 2
        box = (left, top, left + width, top + height)
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    pixels = np.array(image, dtype=np.uint8)  # a copy: Pillow's own buffer is read-only
    return torch.from_numpy(pixels[:, :, None] if in_chans == 1 else pixels).permute(2, 0, 1).contiguous()


class FolderImages:
    """Images that stay in their files and are decoded whenever they are asked for."""

    def __init__(self, part: FolderPart, size: tuple[int, int] | None, shape: tuple[int, int, int]) -> None:
        self.part = part
        self.size = size
        self.labels = torch.tensor(part.labels)
        self.shape = shape

    @classmethod
    def of(cls, part: FolderPart, size: tuple[int, int] | None, in_chans: int) -> FolderImages:
        """Without a ``size``, the first image gives it, and ``read`` demands it of all others."""
        _, height, width = decode(part.paths[0], size, in_chans).shape
        return cls(part, size, (in_chans, height, width))

    @property
    def nbytes(self) -> int:
        """Bytes that the decoded images take."""
        channels, height, width = self.shape
        return len(self) * channels * height * width

    @property
    def size_text(self) -> str:
        return sides(self.shape[1:])

    def __len__(self) -> int:
        return len(self.part.paths)

    def to(self, device: torch.device) -> FolderImages:
        return self  # pixels follow batch by batch

    def read(self, index: int) -> torch.Tensor:
        path = self.part.paths[index]
        image = decode(path, self.size, self.shape[0])
        if tuple(image.shape) != self.shape:
            size = sides(image.shape[1:])
            raise ValueError(f"{str(path)!r} is {size}, other images are {self.size_text}; give --image-size")
        return image

    def decode_all(self, what: str) -> MemoryImages:
        """Decode everything once, with a pool of threads: Pillow lets go of the interpreter lock while it decodes."""
        images = torch.empty((len(self), *self.shape), dtype=torch.uint8)

        def place(index: int) -> None:
            images[index] = self.read(index)

        pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
        try:
            for _ in track(pool.map(place, range(len(self)), chunksize=64), total=len(self), what=what):
                pass
        finally:
            pool.shutdown(cancel_futures=True)  # one corrupt image ends it at once, not after all the others
        return MemoryImages(images, self.labels)

    def fetch(self, batches: Iterable[torch.Tensor], workers: int = 0, pin: bool = False) -> Iterator[torch.Tensor]:
        # The loader gets a generator of its own: by default it draws a seed from torch's global one at every epoch.
        loader = DataLoader(
            _Batches(self, list(batches)),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=_leave_interrupts_to_the_parent,
            generator=torch.Generator(),
            pin_memory=pin,
        )
        for images, problem in loader:
            if problem:
                raise ValueError(problem)
            yield images


class _Batches(Dataset[tuple[torch.Tensor, str]]):
    """Batch number → (images, problem): a worker's exception would arrive as a page of traceback in one string."""

    def __init__(self, source: FolderImages, batches: list[torch.Tensor]) -> None:
        self.source = source
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, str]:
        if number >= len(self.batches):
            raise IndexError(number)
        try:
            return torch.stack([self.source.read(index) for index in self.batches[number].tolist()]), ""
        except ValueError as error:
            return torch.empty(0), str(error)


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
