"""Sets in files of many images each, Hugging Face's parquet files and webdataset's tars, by ``datasets``."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowmode_fx.train.data_spec import FORMS
from lowmode_fx.train.decode import decode
from lowmode_fx.train.images import HeldParts, MemoryImages, Sizes, check_part, square
from lowmode_fx.train.names import Part
from lowmode_fx.train.reading import read_held
from lowmode_fx.utils.progress import progress
from passes.wording import one_line

#: Columns that may hold an image's label, if none is a column of classes.
_LABELS = ("label", "labels", "cls", "class", "target")


def read_shards(
    kind: str,
    root: Path,
    sizes: Sizes,
    in_chans: int,
    most: int,
    workers: int | None = None,
    only: Part | None = None,
) -> HeldParts:
    """The set of ``kind`` (``"parquet"``, ``"webdataset"``) in ``root``, decoded.

    A file belongs to the split in its name or its folder's (``train-00000-of-00004.parquet``). most: bytes that the
    decoded images may take. workers: processes that decode, as ``read_all`` has them. only: the part that is decoded.

    Raises ``ValueError`` for files that can't be read, a set without splits or without an image and a class a row,
    images of several sizes, and sets that are too large.
    """
    import datasets

    # Its table of all rows is written to disk; it is of no use once they are decoded.
    with tempfile.TemporaryDirectory(prefix="lowmode-fx-") as cache:
        tables = _open(datasets, kind, root, cache)
        train, val, test = (tables.get(name) for name in ("train", "validation", "test"))
        if val is None:
            val, test = test, None
        if train is None or val is None:
            names = ", ".join(map(str, tables))
            raise ValueError(
                f"{kind} files in {str(root)!r} have no splits to train and to validate on (found: {names}); name them "
                "after their splits, as train-00000-of-00001 and test-00000-of-00001"
            )
        columns = _columns(datasets, train, kind, root)
        found: dict[Part, Any] = {"train": train, "val": val, "test": test}
        parts = {part: table for part, table in found.items() if table is not None}
        labels = {part: [-1 if label is None else label for label in parts[part][columns.label]] for part in parts}
        notes = []
        if test is not None and min(labels["test"]) < 0:
            notes.append("'test' is left unread: its images have no classes")
            del parts["test"], labels["test"]
        check_part(only, parts, f"{kind}:{root}")
        read: dict[Part, MemoryImages] = {}
        for part, table in parts.items():
            if only in (None, part):
                what = f"{root.name}'s {part} images"
                stored = table.cast_column(columns.image, datasets.Image(decode=False))
                rows = _Rows(stored, what, columns, square(sizes, part), in_chans)
                read[part] = read_held(rows.read, len(table), what, most, workers)
    count = max(max(each) for each in labels.values()) + 1
    if columns.names and count > len(columns.names):
        raise ValueError(f"{kind} files in {str(root)!r} name {len(columns.names)} classes, and have class {count - 1}")
    classes = columns.names or tuple(map(str, range(count)))
    return HeldParts(read, classes, tuple(notes))


@dataclass(frozen=True)
class _Columns:
    """Of a table: the column of images, that of classes, and the classes' names where it has them."""

    image: str
    label: str
    names: tuple[str, ...]


def _open(datasets: Any, kind: str, root: Path, cache: str) -> Any:
    """A table for each split."""
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with progress() as tell:
            tell(f"opening {kind} files", 0.0)
            return datasets.load_dataset(kind, data_dir=str(root), cache_dir=cache)
    except Exception as error:  # its own, pyarrow's, tarfile's
        reason = one_line(error.__cause__ or error)
        hint = f"give {FORMS[kind]} of a folder that holds them"
        raise ValueError(f"cannot read {kind} files in {str(root)!r}: {reason}; {hint}") from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def _columns(datasets: Any, table: Any, kind: str, root: Path) -> _Columns:
    images, labels = [], []
    for name, feature in table.features.items():
        plain = str(getattr(feature, "dtype", ""))
        is_file = plain == "binary" or (isinstance(feature, dict) and "bytes" in feature)
        if is_file or isinstance(feature, datasets.Image):
            images.append(name)
        elif isinstance(feature, datasets.ClassLabel) or (name in _LABELS and plain.startswith("int")):
            labels.append(name)
    label = next((name for name in _LABELS if name in labels), None) or (labels[0] if len(labels) == 1 else None)
    if len(images) != 1 or label is None:
        raise ValueError(
            f"{kind} files in {str(root)!r} have the columns {', '.join(table.features)}; one of images and one of "
            f"classes ({', '.join(_LABELS)}) are expected"
        )
    return _Columns(images[0], label, tuple(getattr(table.features[label], "names", ())))


class _Rows:
    """The rows of a table, whose images are files. what: its images, in a user's words."""

    def __init__(
        self, table: Sequence[Any], what: str, columns: _Columns, size: tuple[int, int] | None, in_chans: int
    ) -> None:
        self.table, self.what, self.columns, self.size, self.in_chans = table, what, columns, size, in_chans

    def read(self, index: int) -> tuple[torch.Tensor, int]:
        """Raises ``ValueError`` for an image that is missing, can't be decoded or has no class."""
        row = self.table[index]
        stored, label, name = row[self.columns.image], row[self.columns.label], f"number {index} of {self.what}"
        if stored is None or label is None or label < 0:
            raise ValueError(f"{name} has no {'image' if stored is None else 'class'}; remove it")
        file = io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else Path(stored["path"])
        return decode(file, self.size, self.in_chans, name), int(label)
