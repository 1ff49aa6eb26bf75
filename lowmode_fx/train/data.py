"""From a data spec (``digits``, ``folder:PATH``, ``torchvision:NAME=PATH``, …) to labelled image sets of one size."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lowmode_fx.loading.augmentation import UNCHANGED, Augmentation
from lowmode_fx.train.data_spec import SHARDS, DataSpec, read_spec
from lowmode_fx.train.folder import FolderImages
from lowmode_fx.train.images import ImageSource, MemoryImages
from lowmode_fx.train.layout import FolderPart, scan_folder
from lowmode_fx.train.shards import read_shards
from lowmode_fx.train.statistics import channel_statistics
from lowmode_fx.train.torchvision_sets import read_torchvision
from lowmode_fx.utils.validation import as_count
from passes.errors import OptionError
from passes.wording import one_line, sides

#: Sets whose decoded uint8 images take no more than this stay in memory without being told to.
MEMORY_LIMIT_BYTES = 4 * 2**30
#: Statistics for sets that are too large to decode once just to measure them.
STANDARD_STATISTICS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's
    1: ((0.449,), (0.226,)),
}
_SAMPLE = 1000  # images that give the statistics of large sets for which there are no standard ones


@dataclass(frozen=True)
class DataSplits:
    """The parts of a data set: uint8 images ``(C, H, W)``.

    ``mean`` and ``std``: per channel, of images in [0, 1]. ``test``: looked at once, after the last epoch. ``notes``:
    what a user should know of the data, a line each. ``transform``: what changes a training image beside
    ``augmentation``, uint8 (C, H, W) to the same, with draws of torch's.
    """

    name: str
    train: ImageSource
    val: ImageSource
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = UNCHANGED
    test: ImageSource | None = None
    notes: tuple[str, ...] = ()
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.shape

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device) -> DataSplits:
        """Move images held in memory to ``device``; files stay where they are, and ``test``, looked at once."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))


def load_data(
    spec: str,
    image_size: int | None = None,
    in_chans: int = 3,
    *,
    split_seed: int = 0,
    in_memory: bool = False,
    workers: int | None = None,
) -> DataSplits:
    """Load the data set that ``spec`` names. Nothing is ever downloaded.

    image_size: the side in pixels that every image is brought to (``None``: digits 32, the others as stored).
    in_chans: 3 (RGB), 1 (grey) or 4 (of ``folder:``, the bands as stored).
    split_seed: draws the validation part of sets that come without one.
    in_memory: hold the decoded images of any set in memory, not only those of up to 4 GiB.
    workers: processes that decode what is held in memory (``None``: as many as there are cores, for sets worth it).

    Raises ``ValueError`` for an unknown spec, a path or layout that is not as expected, classes that differ between the
    two halves, and images that cannot be decoded (by name).
    """
    read = read_spec(spec)
    if image_size is not None:
        as_count("image_size", image_size, 1)
    if in_chans not in (1, 3) and not (in_chans == 4 and read.kind == "folder"):
        raise OptionError("in_chans", in_chans, "is out of range", "give 3 (RGB) or 1 (grey), or 4 for folder:PATH")
    if read.root is None:
        return _digits(image_size or 32, in_chans, split_seed)
    if read.kind in ("torchvision", *SHARDS):
        return _held(spec, read, read.root, image_size, in_chans, in_memory, workers)
    if read.kind == "cifar10":
        return _cifar10(spec, read.root, image_size, in_chans)
    return _folder(spec, read.root, image_size, in_chans, in_memory, workers)


def _digits(size: int, in_chans: int, split_seed: int) -> DataSplits:
    """scikit-learn's 1,797 handwritten digits, 8×8 in 17 greys, a stratified fifth of them for validation."""
    from sklearn.datasets import load_digits  # takes a second to import, and only this set needs it
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    grey = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32)).unsqueeze(1) / 16
    scaled = F.interpolate(grey, size=(size, size), mode="bilinear", align_corners=False)
    images = (scaled * 255).round().to(torch.uint8).expand(-1, in_chans, -1, -1)
    labels = torch.from_numpy(np.asarray(bunch.target, dtype=np.int64))
    parts = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels.numpy(), random_state=split_seed)
    train, val = (MemoryImages(images[torch.from_numpy(part)].contiguous(), labels[part]) for part in parts)
    mean, std, _ = channel_statistics(train)
    # A digit that is flipped is another sign; one that is moved by a sixteenth of the side is the same digit.
    augmentation = Augmentation(shift=max(1, size // 16))
    return DataSplits("digits", train, val, tuple("0123456789"), mean, std, augmentation)


def _cifar10(spec: str, root: Path, size: int | None, in_chans: int) -> DataSplits:
    """CIFAR-10 in its python-pickle form, read by torchvision from ``root`` or the ``cifar-10-batches-py`` in it."""
    from torchvision.datasets import CIFAR10

    base = CIFAR10.base_folder
    parent = root.parent if root.name == base else root
    if not (parent / base).is_dir():
        found = ", ".join(sorted(child.name for child in root.iterdir())[:5]) or "nothing"
        raise ValueError(f"no {base}/ in {str(root)!r} (found: {found}); for a folder of images give folder:{root}")
    halves = []
    for is_train in (True, False):
        try:
            raw = CIFAR10(str(parent), train=is_train, download=False)
        except (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
            reason = one_line(error)
            raise ValueError(f"cannot read CIFAR-10 in {str(parent / base)!r}: {reason}; unpack it again") from error
        images = torch.from_numpy(np.asarray(raw.data)).permute(0, 3, 1, 2)
        halves.append(MemoryImages(_fit(images, size, in_chans), torch.tensor(raw.targets)))
        classes = tuple(raw.classes)
    mean, std, _ = channel_statistics(halves[0])
    return DataSplits(spec, halves[0], halves[1], classes, mean, std, image_augmentation(halves[0].shape[-1]))


def _held(
    spec: str, read: DataSpec, root: Path, size: int | None, in_chans: int, in_memory: bool, workers: int | None
) -> DataSplits:
    """A set that another package opens, and that is held in memory whatever its size."""
    side = (size, size) if size is not None else None
    most = sys.maxsize if in_memory else MEMORY_LIMIT_BYTES
    if read.kind == "torchvision":
        parts = read_torchvision(read.name, root, side, in_chans, most, workers)
    else:
        parts = read_shards(read.kind, root, side, in_chans, most, workers)
    if parts.train.shape != parts.val.shape:
        train, val = (sides(part.shape[1:]) for part in (parts.train, parts.val))
        raise ValueError(f"images are {train} in train and {val} in val; give --image-size")
    mean, std, notes = channel_statistics(parts.train)
    augmentation = image_augmentation(min(parts.train.shape[1:]))
    if "MNIST" in read.name or read.name in ("SVHN", "USPS", "GTSRB"):
        augmentation = replace(augmentation, flip="Fashion" in read.name)  # signs have no mirror images
    notes = (*parts.notes, *notes)
    return DataSplits(spec, parts.train, parts.val, parts.classes, mean, std, augmentation, parts.test, notes)


def _folder(spec: str, root: Path, size: int | None, in_chans: int, in_memory: bool, workers: int | None) -> DataSplits:
    """One folder of images per class, below ``train`` and ``val`` (``valid``, ``validation``, ``test``)."""
    layout = scan_folder(root)
    side = (size, size) if size is not None else None
    given = {"train": layout.train, "validation": layout.val, "test": layout.test}
    parts = {name: FolderImages.of(part, side, in_chans) for name, part in given.items() if part is not None}
    train, val, test = (parts.get(name) for name in given)
    assert train is not None and val is not None
    for name, part in parts.items():
        if part.shape != train.shape:
            raise ValueError(f"images are {train.size_text} in train and {part.size_text} in {name}; give --image-size")
    augmentation = image_augmentation(min(train.shape[1:]))
    is_large = sum(part.nbytes for part in parts.values()) > MEMORY_LIMIT_BYTES
    if is_large and not in_memory:
        mean, std, notes = _of_a_sample(layout.train, train, in_chans)
        notes = (*layout.notes, *notes)
        return DataSplits(spec, train, val, layout.classes, mean, std, augmentation, test, notes)
    kept = {name: part.decode_all(f"decoding {name} images", workers) for name, part in parts.items()}
    # A large set has the same statistics wherever its images lie.
    mean, std, notes = _of_a_sample(layout.train, train, in_chans) if is_large else channel_statistics(kept["train"])
    notes = (*layout.notes, *notes)
    return DataSplits(
        spec, kept["train"], kept["validation"], layout.classes, mean, std, augmentation, kept.get("test"), notes
    )


def _of_a_sample(
    part: FolderPart, train: FolderImages, in_chans: int
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """Standard statistics, or those of some images from the whole of the set."""
    if in_chans in STANDARD_STATISTICS:
        return (*STANDARD_STATISTICS[in_chans], ())
    every = max(1, len(part.paths) // _SAMPLE)
    some = FolderImages(FolderPart(part.paths[::every], part.labels[::every]), train.size, train.shape)
    return channel_statistics(some.decode_all("measuring train images"))


def image_augmentation(side: int) -> Augmentation:
    """The usual one for natural images: 4 pixels of padding at 32×32 (an eighth of the side), and a horizontal flip."""
    return Augmentation(shift=max(1, side // 8), flip=True)


def _fit(images: torch.Tensor, size: int | None, in_chans: int) -> torch.Tensor:
    """uint8 RGB (N, 3, H, W) to the wanted channels and side."""
    if in_chans == 1:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # the luma that Pillow uses for "L"
        images = (images * weights).sum(1, keepdim=True).round().to(torch.uint8)
    if size is not None and size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.contiguous()
