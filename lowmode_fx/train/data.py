"""From a data spec (``digits``, ``folder:PATH``, ``torchvision:NAME=PATH``, …) to labelled image sets of one size."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from lowmode_fx.train.data_spec import SHARDS, DataSpec, read_spec
from lowmode_fx.train.folder import FolderImages
from lowmode_fx.train.images import ImageSource, MemoryImages, Sizes, check_part, square
from lowmode_fx.train.layout import FolderPart, scan_folder
from lowmode_fx.train.names import Part
from lowmode_fx.train.pixel_sets import load_cifar10, load_digits_set
from lowmode_fx.train.shards import read_shards
from lowmode_fx.train.splits import DataSplits, image_augmentation
from lowmode_fx.train.statistics import Statistics, channel_statistics
from lowmode_fx.train.torchvision_sets import read_torchvision
from lowmode_fx.utils.validation import as_choice, as_count
from passes.errors import OptionError
from passes.spelling import setting
from passes.wording import sides

#: Sets whose decoded uint8 images take no more than this stay in memory by default.
MEMORY_LIMIT_BYTES = 4 * 2**30
#: Statistics for sets that are too large to decode once just to measure them.
STANDARD_STATISTICS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's
    1: ((0.449,), (0.226,)),
}
_TRAINED_ON: tuple[Part, Part] = ("train", "val")
_WORDS: dict[Part, str] = {"train": "train", "val": "validation", "test": "test"}
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
    only: Part | None = None,
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
        only: The part that is wanted, ``"train"``, ``"val"`` or ``"test"``. It alone is decoded, and stands for
            ``train`` and ``val``; mean and deviation are its own where those of the training images aren't known.

    Returns:
        The parts of the set, with their classes, the mean and deviation of each channel, and notes for the user.

    Raises:
        ValueError: The spec is unknown, the path or the layout is not as expected, the parts have different classes,
            there is no such part, or an image can't be decoded; the message names it.
    """
    read = read_spec(spec)
    if only is not None:
        as_choice("only", only, get_args(Part))
    if image_size is not None:
        as_count("image_size", image_size, 1)
    held = image_size if train_size is None or image_size is None else as_count("train_size", train_size, image_size)
    if in_chans not in (1, 3) and not (in_chans == 4 and read.kind == "folder"):
        raise OptionError("in_chans", in_chans, "is out of range", "give 3 (RGB) or 1 (grey), or 4 for folder:PATH")
    if read.root is None:
        return load_digits_set(image_size or 32, in_chans, split_seed, only)
    if read.kind in ("torchvision", *SHARDS):
        return _held(spec, read, read.root, (image_size, held), in_chans, in_memory, workers, only)
    if read.kind == "cifar10":
        return load_cifar10(spec, read.root, image_size, in_chans, only)
    return _folder(spec, read.root, (image_size, held), in_chans, in_memory, workers, only)


def _held(
    spec: str,
    read: DataSpec,
    root: Path,
    sizes: Sizes,
    in_chans: int,
    in_memory: bool,
    workers: int | None,
    only: Part | None,
) -> DataSplits:
    """A set that another package opens, and that is held in memory whatever its size."""
    size, _ = sizes
    most = sys.maxsize if in_memory else MEMORY_LIMIT_BYTES
    if read.kind == "torchvision":
        held = read_torchvision(read.name, root, sizes, in_chans, most, workers, only)
    else:
        held = read_shards(read.kind, root, sizes, in_chans, most, workers, only)
    train, val = (held.parts[only or part] for part in _TRAINED_ON)
    if size is None and train.shape != val.shape:
        was, now = sides(train.shape[1:]), sides(val.shape[1:])
        raise ValueError(f"images are {was} in train and {now} in val; give {setting('image_size')}")
    mean, std, notes = _statistics(train, only)
    augmentation = image_augmentation(min(val.shape[1:]))
    if "MNIST" in read.name or read.name in ("SVHN", "USPS", "GTSRB"):
        augmentation = replace(augmentation, flip="Fashion" in read.name)  # signs have no mirror images
    test = None if only is not None else held.parts.get("test")
    return DataSplits(spec, train, val, held.classes, mean, std, augmentation, test, (*held.notes, *notes))


def _folder(
    spec: str,
    root: Path,
    sizes: Sizes,
    in_chans: int,
    in_memory: bool,
    workers: int | None,
    only: Part | None,
) -> DataSplits:
    """One folder of images per class, below ``train`` and ``val`` (``valid``, ``validation``, ``test``)."""
    size, _ = sizes
    layout = scan_folder(root)
    given: dict[Part, FolderPart | None] = {"train": layout.train, "val": layout.val, "test": layout.test}
    there = {part: files for part, files in given.items() if files is not None}
    check_part(only, there, spec)
    files = {part: FolderImages.of(found, square(sizes, part), in_chans) for part, found in there.items()}
    # A large set has the same statistics wherever its images lie, and whichever part is wanted.
    is_large = sum(images.nbytes for images in files.values()) > MEMORY_LIMIT_BYTES
    wanted = files if only is None else {only: files[only]}
    first = wanted[only or "train"]
    for part, images in wanted.items():
        if size is None and images.shape != first.shape:
            text, name = images.size_text, _WORDS[part]
            raise ValueError(
                f"images are {first.size_text} in train and {text} in {name}; give {setting('image_size')}"
            )
    in_files = is_large and not in_memory
    parts: Mapping[Part, ImageSource] = {
        part: images if in_files else images.decode_all(f"decoding {_WORDS[part]} images", workers)
        for part, images in wanted.items()
    }
    train, val = (parts[only or part] for part in _TRAINED_ON)
    if isinstance(train, MemoryImages) and not is_large:
        mean, std, notes = _statistics(train, only)
    else:
        mean, std, notes = _of_a_sample(there[only or "train"], first, in_chans)
    return DataSplits(
        spec,
        train,
        val,
        layout.classes,
        mean,
        std,
        image_augmentation(min(val.shape[1:])),
        parts.get("test") if only is None else None,
        (*layout.notes, *notes),
    )


def _statistics(train: MemoryImages, only: Part | None) -> Statistics:
    """Those of the training images; of another part, which stands for them, without what is noted of theirs."""
    mean, std, notes = channel_statistics(train)
    return mean, std, notes if only in (None, "train") else ()


def _of_a_sample(part: FolderPart, train: FolderImages, in_chans: int) -> Statistics:
    """Standard statistics, or those of some images from the whole of the set."""
    if in_chans in STANDARD_STATISTICS:
        return (*STANDARD_STATISTICS[in_chans], ())
    every = max(1, len(part.paths) // _SAMPLE)
    some = FolderImages(FolderPart(part.paths[::every], part.labels[::every]), train.size, train.shape)
    return channel_statistics(some.decode_all("measuring train images"))
