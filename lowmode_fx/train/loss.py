"""The loss of a classifier, with the auxiliary heads that some models train on."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lowmode_fx.train.evaluate import split_outputs


def classification_loss(outputs: Any, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the logits ``(N, classes)`` in ``outputs``, a scalar."""
    logits, auxiliary = split_outputs(outputs)
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    for output in auxiliary:  # the auxiliary heads of GoogLeNet and Inception, with their papers' weight
        loss = loss + 0.3 * F.cross_entropy(output, labels, label_smoothing=label_smoothing)
    return loss
