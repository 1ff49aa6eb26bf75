"""Convert bytes to normalised floats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Normalise"]


class Normalise:
    """uint8 (N, C, H, W) → float32 with zero mean and unit deviation per channel, on ``device``.

    mean, std: of each channel, for images in [0, 1]; a single value applies to all channels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        means, stds = (torch.tensor(values, dtype=torch.float32) for values in (mean, std))
        self.scale = (1 / (255 * stds)).view(1, -1, 1, 1).to(device)
        self.offset = (-means / stds).view(1, -1, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        # Two operations, each with IEEE 754 rounding: fused into one, a GPU's last bit would differ from a CPU's.
        return torch.mul(images.to(self.scale.device, non_blocking=True), self.scale).add_(self.offset)
