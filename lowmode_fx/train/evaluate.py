"""A model's answers: logits among its outputs, and the share of a validation set that they get right."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lowmode_fx.train.batches import val_batches
from lowmode_fx.train.data import DataSplits
from lowmode_fx.train.ranks import Ranks
from lowmode_fx.train.settings import TrainSettings


def split_outputs(output: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A model's logits (N, classes) and those of its auxiliary heads: some models train on a tuple of both."""
    if isinstance(output, tuple | list):
        return output[0], [other for other in output[1:] if isinstance(other, torch.Tensor)]
    return output, []


def check_outputs(model: nn.Module, splits: DataSplits, device: torch.device) -> None:
    """Raises ``ValueError`` unless the model gives a logit for every class: here, not as an index error in a loss."""
    images, _ = next(val_batches(splits, batch_size=2, device=device))
    model.eval()
    with torch.no_grad():
        logits, _ = split_outputs(model(images))
    classes = splits.num_classes
    if logits.dim() != 2 or logits.shape[1] < classes:
        raise ValueError(
            f"model outputs have shape {tuple(logits.shape)}, but {splits.name} has {classes} classes; "
            f"give a model with outputs of shape (N, {classes})"
        )


def evaluate(model: nn.Module, splits: DataSplits, settings: TrainSettings, device: torch.device) -> float:
    """The accuracy in [0, 1] on the validation set, in full-mode; of all ranks. Leaves the model in eval mode."""
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    dtype = settings.autocast_dtype()
    size, workers, ranks = settings.eval_batch_size, settings.workers, Ranks.now()
    left = len(range(ranks.rank, len(splits.val), ranks.size))  # this rank's, without those that come again
    with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        for images, labels in val_batches(splits, batch_size=size, device=device, workers=workers, ranks=ranks):
            found = (split_outputs(model(images))[0].argmax(1) == labels)[:left]
            right += found.sum()
            left -= len(found)
    return int(ranks.sum(right).item()) / len(splits.val)
