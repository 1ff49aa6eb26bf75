"""A model's answers: whether there is one for each class, and the share of a set that they get right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from lowmode_fx.train.batches import val_batches
from lowmode_fx.train.loss import Criterion
from lowmode_fx.train.outputs import logits_of
from lowmode_fx.train.ranks import Ranks
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.train.splits import DataSplits
from lowmode_fx.utils.channels import channels_hint
from lowmode_fx.utils.dtypes import weights_hint
from passes.errors import OptionError
from passes.wording import first_line


def check_outputs(model: nn.Module, splits: DataSplits, settings: TrainSettings, device: torch.device) -> None:
    """Raises ``ValueError`` unless the model takes the images and gives a logit for every class.

    Here, not as an index error in a loss; and unless there is a class weight for each logit, where there are some.
    """
    images, _ = next(val_batches(splits, batch_size=2, device=device))
    model.eval()
    with torch.no_grad():
        try:
            logits = logits_of(model(images))
        except RuntimeError as error:
            told = channels_hint(model, str(error))
            if not told and (hint := weights_hint(model)):
                told = f"{type(model).__name__} fails on images of {images.dtype} ({first_line(error)}); {hint}"
            if not told:
                raise
            raise ValueError(told) from error
    classes = splits.num_classes
    if logits.dim() != 2 or logits.shape[1] < classes:
        raise ValueError(
            f"model outputs have shape {tuple(logits.shape)}, but {splits.name} has {classes} classes; "
            f"give a model with outputs of shape (N, {classes})"
        )
    if logits.shape[1] != classes and (splits.augmentation.mixup or splits.augmentation.cutmix):
        hint = f"give a model with {classes}, or leave out mixup and cutmix"
        problem = f"mixes labels of {classes} classes, and the model has {logits.shape[1]} outputs"
        raise OptionError("augment", settings.augment, problem, hint)
    weights = settings.class_weights
    if weights and not len(splits.classes if weights == "balanced" else weights) == classes == logits.shape[1]:
        outputs = f"each of the {logits.shape[1]} outputs and of the {classes} classes of {splits.name}"
        hint = "give as many, and a model with as many outputs"
        raise OptionError("class_weights", weights, f"is not one weight for {outputs}", hint)


@dataclass(frozen=True)
class Evaluation:
    """How many of a set's ``images`` a model got ``right``. ``loss``: its mean over them, where one was asked for."""

    images: int
    right: int
    loss: float | None = None

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.right / self.images

    @property
    def standard_error(self) -> float:
        """Of the accuracy, were the images drawn anew: √(p(1 - p)/n)."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.images)


def evaluate(model: nn.Module, splits: DataSplits, settings: TrainSettings, device: torch.device) -> float:
    """The accuracy in [0, 1] on the validation set, in full-mode; of all ranks. Leaves the model in eval mode."""
    return measured(model, splits, settings, device).accuracy


def measured(
    model: nn.Module,
    splits: DataSplits,
    settings: TrainSettings,
    device: torch.device,
    criterion: Criterion | None = None,
) -> Evaluation:
    """As ``evaluate``, with the number of images. criterion: a loss of outputs and labels, of one process alone."""
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    dtype = settings.autocast_dtype()
    size, workers, ranks = settings.eval_batch_size, settings.workers, Ranks.now()
    assert criterion is None or ranks.size == 1  # images that come again would count in the loss
    left = len(range(ranks.rank, len(splits.val), ranks.size))  # this rank's, without those that come again
    losses: list[float] = []
    with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        for images, labels in val_batches(splits, batch_size=size, device=device, workers=workers, ranks=ranks):
            outputs = model(images)
            found = (logits_of(outputs).argmax(1) == labels)[:left]
            right += found.sum()
            left -= len(found)
            if criterion is not None:
                losses.append(criterion(outputs, labels).item() * len(labels))
    count = len(splits.val)
    loss = math.fsum(losses) / count if criterion is not None else None
    return Evaluation(count, int(ranks.sum(right).item()), loss)
