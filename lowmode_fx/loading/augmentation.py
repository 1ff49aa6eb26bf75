"""Random crops of padded images and horizontal flips: uint8 in, uint8 out, one batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

__all__ = ["UNCHANGED", "Augmentation", "crop", "mirror", "window_starts"]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training batch: a crop of the zero-padded image, a horizontal flip, mixup and cutmix.

    Args:
        shift: Pixels of zero padding on each side, before an image is cropped to its own size.
        flip: Whether half of the images are mirrored left to right.
        mixup: Parameter of the Beta distribution by which images are blended with others of their batch; 0 for none.
        cutmix: Likewise for images that get a part of another one (``loading/mixing.py``). Where both are above 0, one
            of them is drawn for each batch.
    """

    shift: int = 0
    flip: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0


#: No augmentation.
UNCHANGED = Augmentation()


def window_starts(rows: Tensor, columns: Tensor, places: Tensor, shape: Sequence[int], shift: int) -> Tensor:
    """Where the crop of each image begins in its batch's padded memory, in pixels, for ``crop``. int64 (N,).

    rows, columns: the crop's corner in the padded image, 0 to ``2 * shift``, int64 (N,).
    places: index of each image in its batch, int64 (N,).
    shape: (C, H, W) of an image.
    """
    channels, height, width = shape
    row_length = width + 2 * shift
    return places * (channels * (height + 2 * shift) * row_length) + rows * row_length + columns


def crop(images: Tensor, starts: Tensor, shift: int) -> Tensor:
    """The crop of each image, padded by ``shift`` zeros a side, that begins at its start. (N, C, H, W) → the same."""
    _, channels, height, width = images.shape
    padded = F.pad(images, (shift, shift, shift, shift))
    *_, plane, row_length, _ = padded.stride()
    # One window of the padded batch for every possible start. Windows overlap; only the chosen ones are copied,
    # row by row, which is much faster than gathering pixels.
    reach = (channels - 1) * plane + (height - 1) * row_length + width
    shape, strides = (channels, height, width), (plane, row_length, 1)
    windows = padded.as_strided((padded.numel() - reach + 1, *shape), (1, *strides))
    return windows.index_select(0, starts)


def mirror(images: Tensor, masks: Tensor) -> Tensor:
    """Mirror the uint8 images (N, C, H, W) whose mask uint8 (N,) is 255 left to right; 0 leaves an image as it is."""
    masks = masks.view(-1, 1, 1, 1)
    # Bitwise: `torch.where` on bytes is not vectorised on a CPU, and selecting images by a mask waits for the GPU.
    changes = images.flip(-1).bitwise_xor_(images).bitwise_and_(masks)
    return changes.bitwise_xor_(images)
