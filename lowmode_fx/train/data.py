"""From a data spec (``digits``, ``cifar10:PATH``, ``folder:PATH``) to two labelled image sets of one size."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lowmode_fx.train.folder import FolderImages, scan_folder
from lowmode_fx.train.images import ImageSource, MemoryImages
from lowmode_fx.utils.validation import as_count
from passes.errors import OptionError

#: Sets whose decoded uint8 images take no more than this stay in memory.
MEMORY_LIMIT_BYTES = 4 * 2**30
#: Statistics for sets that are too large to decode once just to measure them.
STANDARD_STATISTICS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's
    1: ((0.449,), (0.226,)),
}
SPECS = "digits, cifar10:PATH or folder:PATH"


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training batch: a crop out of an image padded by ``shift`` pixels of zeros, and a flip."""

    shift: int = 0
    flip: bool = False


@dataclass(frozen=True)
class DataSplits:
    """The two halves of a data set: uint8 images ``(C, H, W)``.

    ``mean`` and ``std``: per channel, of images in [0, 1].
    """

    name: str
    train: ImageSource
    val: ImageSource
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = Augmentation()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.shape

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device) -> DataSplits:
        """Move images that are held in memory to ``device``; files stay where they are."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))


def load_data(spec: str, image_size: int | None = None, in_chans: int = 3, *, split_seed: int = 0) -> DataSplits:
    """Load the data set that ``spec`` names. Nothing is ever downloaded.

    image_size: the side in pixels that every image is brought to (``None``: digits 32, the others as stored).
    in_chans: 3 (RGB) or 1 (grey).
    split_seed: draws the validation part of sets that come without one.

    Raises ``ValueError`` for an unknown spec, a path or layout that is not as expected, classes that differ between the
    two halves, and images that cannot be decoded (by name).
    """
    kind, _, path = spec.partition(":")
    if image_size is not None:
        as_count("image_size", image_size, 1)
    if in_chans not in (1, 3):
        raise OptionError("in_chans", in_chans, "is out of range", "give 3 (RGB) or 1 (grey)")
    if kind == "digits" and not path:
        return _digits(image_size or 32, in_chans, split_seed)
    if kind not in ("cifar10", "folder"):
        raise ValueError(f"data={spec!r} is unknown; give {SPECS}")
    if not path:
        raise ValueError(f"data={spec!r} names no folder; give {kind}:PATH")
    root = Path(path).expanduser()
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise ValueError(f"data path {str(root)!r} {problem}; give {kind}:PATH of an existing folder")
    return (_cifar10 if kind == "cifar10" else _folder)(spec, root, image_size, in_chans)


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
    mean, std = _statistics(train)
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
            reason = " ".join(str(error).split())
            raise ValueError(f"cannot read CIFAR-10 in {str(parent / base)!r}: {reason}; unpack it again") from error
        images = torch.from_numpy(np.asarray(raw.data)).permute(0, 3, 1, 2)
        halves.append(MemoryImages(_fit(images, size, in_chans), torch.tensor(raw.targets)))
        classes = tuple(raw.classes)
    mean, std = _statistics(halves[0])
    return DataSplits(spec, halves[0], halves[1], classes, mean, std, image_augmentation(halves[0].shape[-1]))


def _folder(spec: str, root: Path, size: int | None, in_chans: int) -> DataSplits:
    """One folder of images per class, below ``train`` and ``test`` (or ``val``, ``valid``, ``validation``)."""
    layout = scan_folder(root)
    side = (size, size) if size is not None else None
    train, val = (FolderImages.of(part, side, in_chans) for part in (layout.train, layout.val))
    if val.shape != train.shape:
        raise ValueError(f"images are {train.size_text} in train and {val.size_text} in test; give --image-size")
    augmentation = image_augmentation(min(train.shape[1:]))
    if train.nbytes + val.nbytes > MEMORY_LIMIT_BYTES:
        mean, std = STANDARD_STATISTICS[in_chans]
        return DataSplits(spec, train, val, layout.classes, mean, std, augmentation)
    kept = train.decode_all("decoding train images"), val.decode_all("decoding validation images")
    mean, std = _statistics(kept[0])
    return DataSplits(spec, kept[0], kept[1], layout.classes, mean, std, augmentation)


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


def _statistics(source: MemoryImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of images in [0, 1], from a count of each of the 256 values: exact."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(source.shape[0]):
        counts = torch.zeros(256, dtype=torch.float64)
        for chunk in source.images[:, channel].split(4096):  # bincount needs int64, eight times the memory
            counts += torch.bincount(chunk.flatten().long(), minlength=256)
        share = counts / counts.sum()
        mean = (share * values).sum()
        variance = (share * (values - mean) ** 2).sum()
        means.append(round(mean.item(), 6))
        stds.append(round(max(variance.sqrt().item(), 1 / 255), 6))  # an empty channel must not divide by zero
    return tuple(means), tuple(stds)
