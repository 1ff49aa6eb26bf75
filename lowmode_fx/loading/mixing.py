"""Batches whose images and labels are mixed in pairs, by torchvision's MixUp and CutMix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowmode_fx.loading.augmentation import Augmentation
from lowmode_fx.loading.draws import drawing_from, mix_seed
from lowmode_fx.utils.validation import as_count, as_number

__all__ = ["Mixing", "mixing_of"]


class Mixing:
    """Each image of a batch mixed with the one before it, on the device: a function of seed, epoch, step and rank.

    augmentation: with ``mixup`` (arXiv 1710.09412), ``cutmix`` (1905.04899), or both: then one of them by lot.
    classes: of the labels. seed: of what is drawn. rank: of several processes, each of which mixes its own batches.
    """

    def __init__(self, augmentation: Augmentation, classes: int, seed: int, rank: int = 0) -> None:
        from torchvision.transforms import v2

        as_count("classes", classes, 1)
        mixup, cutmix = (as_number(name, getattr(augmentation, name), least=0) for name in ("mixup", "cutmix"))
        kinds: list[Any] = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
        kinds += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []
        self._mix = kinds[0] if len(kinds) == 1 else v2.RandomChoice(kinds)
        self._seed, self._rank = seed, rank

    def __call__(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """images float32 (N, C, H, W), labels int64 (N,) → the mixed images, and soft labels float32 (N, classes)."""
        with drawing_from(mix_seed(step, self._seed, epoch, self._rank)):
            mixed, soft = self._mix(images, labels)
        return mixed, soft


def mixing_of(
    augmentation: Augmentation, labels: Tensor, classes: int | None, seed: int, rank: int = 0
) -> Mixing | None:
    """The mixing of an augmentation, if it has any.

    labels: of the whole set. Raises ``TypeError`` or ``ValueError`` for labels that are no classes below ``classes``.
    """
    if not (augmentation.mixup or augmentation.cutmix):
        return None
    if classes is None:
        raise ValueError("mixed labels are shares of all classes; give classes, how many there are")
    mixing = Mixing(augmentation, classes, seed, rank)
    if labels.dtype != torch.int64:
        raise TypeError(f"labels have dtype {labels.dtype}, and are to be mixed; give classes, torch.int64")
    if labels.dim() != 1:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, and are to be mixed; give one class per image")
    least, most = (int(edge) for edge in labels.aminmax())
    if least < 0 or most >= classes:
        raise ValueError(f"labels go from {least} to {most}; give classes from 0 to {classes - 1}, or more classes")
    return mixing
