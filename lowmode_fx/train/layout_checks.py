"""Layouts of image folders that are refused, each with what was found and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
)
EXPECTED = "expected PATH/train/CLASS/IMAGE and PATH/val/CLASS/IMAGE ('test' serves too)"
_MASKS = ("masks", "mask", "labels", "annotations", "ground_truth", "gt")
_SHOWN = 5  # of a list of names


def folders_in(folder: Path) -> list[Path]:
    """Folders, without hidden ones and what macOS leaves in archives."""
    hidden = (".", "__MACOSX")
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(hidden))


def check_no_masks(folder: Path, names: Sequence[str]) -> None:
    """Masks beside images are images too, and would be trained on."""
    for name in names:
        parts = {child.name.lower(): child.name for child in folders_in(folder / name)}
        masks = next((parts[part] for part in _MASKS if part in parts), None)
        if masks is not None and "images" in parts:
            raise ValueError(
                f"class folder {str(folder / name)!r} holds {parts['images']!r} and {masks!r}, and all files below a "
                "class are its images; move the others elsewhere"
            )


def flat_hint(folder: Path) -> str:
    """For images without class folders, whose labels are in a table, as in contests."""
    tables = [path for place in (folder, folder.parent) for path in sorted(place.glob("*.csv"))]
    flat = any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
    if not flat:
        return ""
    told = f", and labels in {tables[0].name}" if tables else ""
    return f", but images side by side{told}; move each into a folder of its class"


def check_same_classes(
    root: Path, train_folder: Path, train: dict[str, list[Path]], val_folder: Path, val: dict[str, list[Path]]
) -> None:
    if set(train) == set(val):
        return
    table = next((path for path in sorted(val_folder.glob("*annotations*.txt"))), None)
    if len(val) == 1 and table is not None:
        raise ValueError(
            f"{str(val_folder)!r} tells its classes in {table.name}, as Tiny-ImageNet does; {EXPECTED}: move each "
            "image into a folder of its class"
        )
    differing = sorted(set(train) ^ set(val))
    where = train_folder.name if differing[0] in train else val_folder.name
    raise ValueError(
        f"classes of {train_folder.name} and {val_folder.name} in {str(root)!r} differ: only {where} has "
        f"{differing[0]!r}; give both the same classes"
    )


def listed(children: Sequence[Path]) -> str:
    names = [child.name for child in children]
    return f"folders {', '.join(names[:_SHOWN])}{' …' if len(names) > _SHOWN else ''}" if names else "no folders"
