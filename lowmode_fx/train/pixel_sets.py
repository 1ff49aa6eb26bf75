"""Sets that are pixels already, without files to decode: scikit-learn's digits, and CIFAR-10 as it is pickled."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lowmode_fx.loading.augmentation import Augmentation
from lowmode_fx.train.images import MemoryImages, check_part
from lowmode_fx.train.names import Part
from lowmode_fx.train.splits import DataSplits, image_augmentation
from lowmode_fx.train.statistics import channel_statistics
from passes.wording import one_line


def load_digits_set(size: int, in_chans: int, split_seed: int, only: Part | None = None) -> DataSplits:
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
    check_part(only, ("train", "val"), "digits")
    train, val = {None: (train, val), "train": (train, train), "val": (val, val)}[only]
    # A digit that is flipped is another sign; one that is moved by a sixteenth of the side is the same digit.
    augmentation = Augmentation(shift=max(1, size // 16))
    return DataSplits("digits", train, val, tuple("0123456789"), mean, std, augmentation)


def load_cifar10(spec: str, root: Path, size: int | None, in_chans: int, only: Part | None = None) -> DataSplits:
    """CIFAR-10 in its python-pickle form, read by torchvision from ``root`` or the ``cifar-10-batches-py`` in it.

    only: the half that is read, ``"train"`` or ``"val"``, and stands for both.
    """
    from torchvision.datasets import CIFAR10

    base = CIFAR10.base_folder
    parent = root.parent if root.name == base else root
    if not (parent / base).is_dir():
        found = ", ".join(sorted(child.name for child in root.iterdir())[:5]) or "nothing"
        raise ValueError(f"no {base}/ in {str(root)!r} (found: {found}); for a folder of images give folder:{root}")
    wanted: tuple[Part, ...] = ("train", "val") if only is None else (only,)
    check_part(only, ("train", "val"), spec)
    halves = []
    for part in wanted:
        try:
            raw = CIFAR10(str(parent), train=part == "train", download=False)
        except (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
            reason = one_line(error)
            raise ValueError(f"cannot read CIFAR-10 in {str(parent / base)!r}: {reason}; unpack it again") from error
        images = torch.from_numpy(np.asarray(raw.data)).permute(0, 3, 1, 2)
        halves.append(MemoryImages(_fit(images, size, in_chans), torch.tensor(raw.targets)))
        classes = tuple(raw.classes)
    mean, std, _ = channel_statistics(halves[0])
    return DataSplits(spec, halves[0], halves[-1], classes, mean, std, image_augmentation(halves[0].shape[-1]))


def _fit(images: torch.Tensor, size: int | None, in_chans: int) -> torch.Tensor:
    """uint8 RGB (N, 3, H, W) to the wanted channels and side."""
    if in_chans == 1:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # the luma that Pillow uses for "L"
        images = (images * weights).sum(1, keepdim=True).round().to(torch.uint8)
    if size is not None and size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.contiguous()
