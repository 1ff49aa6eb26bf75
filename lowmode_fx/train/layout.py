"""How a folder of images is laid out: its splits, its classes, every file below a class; and what lies beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lowmode_fx.train.layout_checks import (
    EXPECTED,
    SUFFIXES,
    check_no_masks,
    check_same_classes,
    flat_hint,
    folders_in,
    listed,
)

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation")
TEST_NAMES = ("test", "testing")


@dataclass(frozen=True)
class FolderPart:
    """The files of one split, sorted by class and path, with the number of each one's class."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class FolderLayout:
    """``val``: what is validated on; ``test``: kept for the end; ``notes``: what a user should know, a line each."""

    train: FolderPart
    val: FolderPart
    test: FolderPart | None
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def scan_folder(root: Path) -> FolderLayout:
    """Find the splits and their classes below ``root``, or below the only folder in it.

    ``val`` (``valid``, ``validation``) is validated on, and ``test`` without it. All image files below a class folder,
    at any depth, are of that class.

    Raises ``ValueError`` that says which layout is expected and what was found instead.
    """
    children = folders_in(root)
    if len(children) == 1 and _named(children, TRAIN_NAMES) is None:
        inner = folders_in(children[0])
        if _named(inner, TRAIN_NAMES) is not None:
            root, children = children[0], inner
    train_folder = _named(children, TRAIN_NAMES)
    val_folder, test_folder = _named(children, VAL_NAMES), _named(children, TEST_NAMES)
    if train_folder is None or (val_folder or test_folder) is None:
        raise ValueError(f"no class folders in {str(root)!r}: {EXPECTED}; found {listed(children)}")
    ignored: Counter[str] = Counter()
    notes = []
    if val_folder is None:
        assert test_folder is not None
        notes.append(
            f"validation is on {test_folder.name!r}, as there is no 'val': its accuracy is none of unseen images"
        )
        val_folder, test_folder = test_folder, None
    train, val = _scan_classes(train_folder, ignored), _scan_classes(val_folder, ignored)
    check_same_classes(root, train_folder, train, val_folder, val)
    classes = tuple(sorted(train))
    test = None
    if test_folder is not None:
        if {child.name for child in folders_in(test_folder)} == set(classes):
            test = _number(_scan_classes(test_folder, ignored), classes)
        else:
            notes.append(f"{test_folder.name!r} is left unread: its folders are not the classes of {train_folder.name}")
    nested = sum(path.parent != train_folder / name for name, found in train.items() for path in found)
    if nested:
        total = sum(map(len, train.values()))
        notes.append(f"{nested} of {total} training images lie in subfolders of their class, and are used")
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
        files = "1 file is" if ignored.total() == 1 else f"{ignored.total()} files are"
        notes.append(f"{files} ignored, being no images that are read: {kinds}")
    if len(classes) == 1:
        notes.append(f"all images are of one class, {classes[0]!r}: there is nothing to tell apart")
    return FolderLayout(_number(train, classes), _number(val, classes), test, classes, tuple(notes))


def scan_classes(root: Path, classes: Sequence[str]) -> FolderPart | None:
    """The images of a folder without splits, whose folders are all named after some of ``classes``; else ``None``.

    Raises ``ValueError`` for a class folder without images.
    """
    names = {child.name for child in folders_in(root)}
    if not names or not names <= set(classes):
        return None
    files = _scan_classes(root, Counter())
    return _number({name: files.get(name, []) for name in classes}, tuple(classes))


def _named(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    found = {folder.name.lower(): folder for folder in folders}
    return next((found[name] for name in names if name in found), None)


def _scan_classes(folder: Path, ignored: Counter[str]) -> dict[str, list[Path]]:
    from torchvision.datasets.folder import make_dataset

    names = [child.name for child in folders_in(folder)]
    for name in names:
        if name.encode("utf-8", "ignore").decode() != name:
            raise ValueError(f"class folder {str(folder / name)!r} has a name that is no UTF-8 text; rename it")
    if not names:
        hint = flat_hint(folder)
        raise ValueError(f"no class folders in {str(folder)!r}: {EXPECTED}; found none below {folder.name!r}{hint}")
    if set(map(str.lower, names)) == {"images", "labels"}:
        raise ValueError(
            f"{str(folder)!r} holds {' and '.join(names)}, the layout of a set for detection; {EXPECTED}: classes are "
            "told by folders"
        )

    check_no_masks(folder, names)

    def is_image(text: str) -> bool:
        path = Path(text)
        below = path.relative_to(folder).parts
        kind = ""
        if any(part.startswith(("._", "__MACOSX")) for part in below):
            kind = "of macOS (._*)"
        elif any(part.startswith(".") for part in below):
            kind = "hidden"
        elif path.suffix.lower() not in SUFFIXES:
            kind = path.suffix.lower() or "without a suffix"
        if kind:
            ignored[kind] += 1
        return not kind

    files: dict[str, list[Path]] = {name: [] for name in names}
    numbers = {name: number for number, name in enumerate(names)}
    for path, number in make_dataset(str(folder), numbers, is_valid_file=is_image, allow_empty=True):
        files[names[number]].append(Path(path))
    for name, found in files.items():
        if not found:
            raise ValueError(
                f"class folder {str(folder / name)!r} has no images ({', '.join(sorted(SUFFIXES))}); remove it"
            )
    return files


def _number(files: dict[str, list[Path]], classes: tuple[str, ...]) -> FolderPart:
    numbered = [(path, label) for label, name in enumerate(classes) for path in files[name]]
    return FolderPart(tuple(path for path, _ in numbered), tuple(label for _, label in numbered))
