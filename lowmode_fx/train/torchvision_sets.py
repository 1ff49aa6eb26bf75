"""The data sets that ``torchvision.datasets`` knows, read from a folder where they lie; nothing is downloaded."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lowmode_fx.train.decode import pixels
from lowmode_fx.train.images import HeldParts, MemoryImages, Sizes, check_part, square
from lowmode_fx.train.names import Part
from lowmode_fx.train.reading import read_held
from passes.wording import near_matches_hint

#: What is asked for, in this order, by the name of the split.
_SPLITS: dict[Part, tuple[str, ...]] = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
_UNREADABLE = (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError)


def read_torchvision(
    name: str,
    root: Path,
    sizes: Sizes,
    in_chans: int,
    most: int,
    workers: int | None = None,
    only: Part | None = None,
) -> HeldParts:
    """The set ``torchvision.datasets.<name>`` in ``root``, decoded.

    most: bytes that the decoded images may take. workers: processes that decode, as ``read_all`` has them. only: the
    part that is decoded; of a set that doesn't name its classes all are, for their labels.

    Raises ``ValueError`` for a name that torchvision doesn't have, files that aren't there or can't be read, a set
    without splits or without one class an image, images of several sizes, and sets that are too large.
    """
    from torchvision import datasets

    names = [each for each in datasets.__all__ if _splits_by(getattr(datasets, each)) is not None]
    if name not in names:
        known = name in datasets.__all__
        why = "has no train and test splits of its own" if known else "is unknown to torchvision.datasets"
        raise ValueError(f"data set {name!r} {why}; {near_matches_hint(name, names)}")
    made = {split: _make(getattr(datasets, name), name, root, split) for split in _SPLITS}
    if made["train"] is None or (made["val"] or made["test"]) is None:
        raise ValueError(f"torchvision's {name} has no splits to train and to validate on; lay it out for folder:PATH")
    if made["val"] is None:
        made["val"], made["test"] = made["test"], None
    raw_parts = {split: raw for split, raw in made.items() if raw is not None}
    check_part(only, raw_parts, f"torchvision:{name}")
    named = tuple(str(each) for each in getattr(made["train"], "classes", ()))
    read: dict[Part, MemoryImages] = {}
    for split, raw in raw_parts.items():
        if only in (None, split) or not named:
            what = f"{name}'s {split} images"
            rows = _Rows(raw, what, square(sizes, split), in_chans)
            read[split] = read_held(rows.read, len(raw), what, most, workers)
    count = int(max(part.labels.max() for split, part in read.items() if split != "test" or split == only)) + 1
    classes = named if len(named) >= count else tuple(map(str, range(count)))
    return HeldParts(read if only is None else {only: read[only]}, classes)


def _splits_by(kind: Any) -> str | None:
    """The parameter that says which part of the set is meant."""
    parameters = inspect.signature(kind).parameters
    # Of EMNIST ``split`` is another thing; ImageNet and the like have ``split`` alone.
    return next((name for name in ("train", "split", "image_set") if name in parameters), None)


def _make(kind: Callable[..., Any], name: str, root: Path, split: Part) -> Sequence[Any] | None:
    """One split, or ``None`` where the set has none of that name."""
    by = _splits_by(kind)
    assert by is not None
    parameters = inspect.signature(kind).parameters
    given: dict[str, Any] = {"download": False} if "download" in parameters else {}
    if name == "EMNIST":
        given["split"] = "balanced"
    if by == "train":
        if split == "val":
            return None
        return _open(kind, name, root, {**given, "train": split == "train"})
    for value in _SPLITS[split]:
        try:
            return _open(kind, name, root, {**given, by: value})
        except _NoSplitError:
            continue
    return None


class _NoSplitError(ValueError):
    """torchvision's own check of an argument."""


def _open(kind: Callable[..., Any], name: str, root: Path, given: dict[str, Any]) -> Sequence[Any]:
    try:
        made: Sequence[Any] = kind(str(root), **given)
    except _UNREADABLE as error:
        reason = " ".join(str(error).replace("You can use download=True to download it", "").split()).rstrip(". ")
        raise ValueError(f"cannot read torchvision's {name} in {str(root)!r}: {reason}; put its files there") from error
    except ValueError as error:
        raise _NoSplitError(str(error)) from error
    return made


class _Rows:
    """The rows of a set of torchvision's. what: its images, in a user's words."""

    def __init__(self, raw: Sequence[Any], what: str, size: tuple[int, int] | None, in_chans: int) -> None:
        self.raw, self.what, self.size, self.in_chans = raw, what, size, in_chans

    def read(self, index: int) -> tuple[torch.Tensor, int]:
        """Raises ``ValueError`` for what is no image with its class."""
        image, label = self.raw[index]
        if not isinstance(image, Image.Image) or not isinstance(label, int):
            kinds = f"{type(image).__name__} and {type(label).__name__}"
            raise ValueError(
                f"{self.what} are pairs of {kinds}, not of an image and its class; this set serves no classifier"
            )
        try:
            return pixels(image, self.size, self.in_chans), label
        except ValueError as error:
            raise ValueError(f"number {index} of {self.what} {error}") from None
