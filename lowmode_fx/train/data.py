"""From a data spec (``digits``, ``folder:PATH``, ``torchvision:NAME=PATH``, …) to labelled image sets of one size."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from lowmode_fx.train.data_spec import SHARDS, DataSpec, read_spec
from lowmode_fx.train.folder import FolderImages
from lowmode_fx.train.images import Sizes, square
from lowmode_fx.train.layout import FolderPart, scan_folder
from lowmode_fx.train.pixel_sets import load_cifar10, load_digits_set
from lowmode_fx.train.shards import read_shards
from lowmode_fx.train.splits import DataSplits, image_augmentation
from lowmode_fx.train.statistics import channel_statistics
from lowmode_fx.train.torchvision_sets import read_torchvision
from lowmode_fx.utils.validation import as_count
from passes.errors import OptionError
from passes.wording import sides

#: Sets whose decoded uint8 images take no more than this stay in memory by default.
MEMORY_LIMIT_BYTES = 4 * 2**30
#: Statistics for sets that are too large to decode once just to measure them.
STANDARD_STATISTICS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's
    1: ((0.449,), (0.226,)),
}
_SAMPLE = 1000  # images that give the statistics of large sets for which there are no standard ones


def load_data(
    spec: str,
    image_size: int | None = None,
    in_chans: int = 3,
    *,
    split_seed: int = 0,
    in_memory: bool = False,
    workers: int | None = None,
    train_size: int | None = None,
) -> DataSplits:
    """Load the data set that ``spec`` names. Nothing is ever downloaded.

    Args:
        spec: The data set, such as ``digits`` or ``folder:PATH``.
        image_size: Side in pixels to which every image is scaled and cropped; ``None`` is 32 for digits and the stored
            size for other sets.
        in_chans: 3 (RGB), 1 (grey) or, for ``folder:``, 4 (the bands as stored).
        split_seed: Seed that draws the validation part of sets that have none.
        in_memory: Whether the decoded images of any set are held in memory, not only those of up to 4 GiB.
        workers: Number of processes that decode images that are held in memory; ``None`` is the number of cores for
            sets that are large enough to gain from it.
        train_size: Side in pixels at which training images are held instead, if they are files and ``image_size`` is
            given. Random crops are then cut from more than the image that the network sees.

    Returns:
        The parts of the set, with their classes, the mean and deviation of each channel, and notes for the user.

    Raises:
        ValueError: The spec is unknown, the path or the layout is not as expected, the parts have different classes, or
            an image can't be decoded; the message names it.
    """
    read = read_spec(spec)
    if image_size is not None:
        as_count("image_size", image_size, 1)
    held = image_size if train_size is None or image_size is None else as_count("train_size", train_size, image_size)
    if in_chans not in (1, 3) and not (in_chans == 4 and read.kind == "folder"):
        raise OptionError("in_chans", in_chans, "is out of range", "give 3 (RGB) or 1 (grey), or 4 for folder:PATH")
    if read.root is None:
        return load_digits_set(image_size or 32, in_chans, split_seed)
    if read.kind in ("torchvision", *SHARDS):
        return _held(spec, read, read.root, (image_size, held), in_chans, in_memory, workers)
    if read.kind == "cifar10":
        return load_cifar10(spec, read.root, image_size, in_chans)
    return _folder(spec, read.root, (image_size, held), in_chans, in_memory, workers)


def _held(
    spec: str, read: DataSpec, root: Path, sizes: Sizes, in_chans: int, in_memory: bool, workers: int | None
) -> DataSplits:
    """A set that another package opens, and that is held in memory whatever its size."""
    size, _ = sizes
    most = sys.maxsize if in_memory else MEMORY_LIMIT_BYTES
    if read.kind == "torchvision":
        parts = read_torchvision(read.name, root, sizes, in_chans, most, workers)
    else:
        parts = read_shards(read.kind, root, sizes, in_chans, most, workers)
    if size is None and parts.train.shape != parts.val.shape:
        train, val = (sides(part.shape[1:]) for part in (parts.train, parts.val))
        raise ValueError(f"images are {train} in train and {val} in val; give --image-size")
    mean, std, notes = channel_statistics(parts.train)
    augmentation = image_augmentation(min(parts.val.shape[1:]))
    if "MNIST" in read.name or read.name in ("SVHN", "USPS", "GTSRB"):
        augmentation = replace(augmentation, flip="Fashion" in read.name)  # signs have no mirror images
    notes = (*parts.notes, *notes)
    return DataSplits(spec, parts.train, parts.val, parts.classes, mean, std, augmentation, parts.test, notes)


def _folder(spec: str, root: Path, sizes: Sizes, in_chans: int, in_memory: bool, workers: int | None) -> DataSplits:
    """One folder of images per class, below ``train`` and ``val`` (``valid``, ``validation``, ``test``)."""
    size, _ = sizes
    layout = scan_folder(root)
    given = {"train": layout.train, "validation": layout.val, "test": layout.test}
    parts = {
        name: FolderImages.of(part, square(sizes, name), in_chans) for name, part in given.items() if part is not None
    }
    train, val, test = (parts.get(name) for name in given)
    assert train is not None and val is not None
    for name, part in parts.items():
        if size is None and part.shape != train.shape:
            raise ValueError(f"images are {train.size_text} in train and {part.size_text} in {name}; give --image-size")
    augmentation = image_augmentation(min(val.shape[1:]))
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
