"""The loss of a classifier: cross-entropy, binary cross-entropy or a user's own, with auxiliary heads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmode_fx.train.outputs import split_outputs
from lowmode_fx.train.settings import check_criterion
from lowmode_fx.utils.imports import import_named
from lowmode_fx.utils.losses import as_loss
from lowmode_fx.utils.user_code import user_code
from passes.spelling import setting
from passes.wording import first_line

#: ``criterion(outputs, labels)``: what the model returned and what is right, to a scalar.
Criterion = Callable[[Any, Tensor], Tensor]
_AUXILIARY_WEIGHT = 0.3  # of the papers on GoogLeNet and Inception


def classification_loss(outputs: Any, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the logits ``(N, classes)`` in ``outputs``, a scalar.

    labels: classes ``(N,)``, or soft targets ``(N, classes)``. Raises ``ValueError`` for outputs that aren't known.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return ClassifierLoss(loss)(outputs, labels)


class ClassifierLoss:
    """A loss of logits, summed over a model's own head and, with a weight of 0.3, its auxiliary ones."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.loss = loss

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        """outputs: what the model returned; labels ``(N,)`` or soft ``(N, classes)``. A scalar."""
        logits, auxiliary = split_outputs(outputs)
        loss = self.loss(logits, labels)
        for output in auxiliary:
            loss = loss + _AUXILIARY_WEIGHT * self.loss(output, labels)
        return loss


def make_criterion(
    name: str,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
    device: torch.device | None = None,
) -> Criterion:
    """``"cross_entropy"``, ``"bce"`` (each class against all others, by timm) or ``package.module:callable``.

    A callable gets the model's outputs as they are and the labels ``(N,)``; a class is called without arguments first.

    Raises ``ValueError`` for a callable that can't be had, that has parameters of its own to train, or that comes with
    ``label_smoothing`` or ``class_weights``, which it would not see.
    """
    check_criterion(name)
    weights = torch.tensor(class_weights, device=device) if class_weights else None
    if name == "cross_entropy":
        return ClassifierLoss(nn.CrossEntropyLoss(weights, label_smoothing=label_smoothing))
    if name == "bce":
        from timm.loss import BinaryCrossEntropy

        return ClassifierLoss(BinaryCrossEntropy(smoothing=label_smoothing, weight=weights))
    if label_smoothing or class_weights:
        given = "label smoothing" if label_smoothing else "class weights"
        option = setting("label_smoothing" if label_smoothing else "class_weights")
        problem = f"takes no {given}: it is called with outputs and labels alone"
        raise ValueError(f"criterion {name} {problem}; leave out {option}")
    return _own(name, device)


def balanced_weights(labels: Tensor, classes: int) -> tuple[float, ...]:
    """A weight for each class that makes up for how often it is there: images / (classes × images of it)."""
    from sklearn.utils.class_weight import compute_class_weight

    found = compute_class_weight("balanced", classes=np.arange(classes), y=labels.cpu().numpy())
    return tuple(round(float(weight), 6) for weight in found)


class _OwnLoss:
    """A user's own loss: what is wrong with it is said at its first call, in one line with its name."""

    def __init__(self, name: str, loss: Criterion) -> None:
        self.name, self.loss = name, loss
        self._works = False

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        if self._works:
            return self.loss(outputs, labels)
        what = f"criterion {self.name} failed on a model's outputs and labels of shape {tuple(labels.shape)}"
        with user_code(what, "give a callable of these two"):
            loss = self.loss(outputs, labels)
        found = as_loss(loss, f"criterion {self.name}")
        self._works = True
        return found


def _own(name: str, device: torch.device | None) -> Criterion:
    found = import_named(name, "criterion")
    if inspect.isclass(found):
        try:
            found = found()
        except Exception as error:
            raise ValueError(f"criterion {name} can't be made without arguments: {first_line(error)}") from error
    if not callable(found):
        raise ValueError(f"criterion {name} is of type {type(found).__name__}; give a callable of outputs and labels")
    if isinstance(found, nn.Module):
        if any(True for _ in found.parameters()):
            raise ValueError(f"criterion {name} has parameters, which train does not train; write a loop of your own")
        found = found.to(device)
    return _OwnLoss(name, found)
