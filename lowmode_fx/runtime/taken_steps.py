"""Whether a step of an optimizer has changed its weights: some optimizers skip steps by themselves."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from passes.torch_internals import sum_of_versions

#: More steps in a row without a visible write than this are not skipped: the optimizer writes in another way now.
MOST_SKIPPED = 10


class TakenSteps:
    """Watches the weights of optimizers around their steps.

    A gradient scaler tells a fused optimizer to skip a step. Others decide by themselves, which is seen if they write
    to their weights in a way that autograd notices, or if their smallest weight with a gradient changes; a step of one
    that never was seen to write counts as taken.
    """

    def __init__(self) -> None:
        self._before: weakref.WeakKeyDictionary[Optimizer, tuple[int, Tensor | None, Tensor | None]]
        self._before = weakref.WeakKeyDictionary()
        #: Of optimizers that were seen to write: the steps in a row since.
        self._unseen: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()

    def begins(self, optimizer: Optimizer) -> None:
        """``optimizer`` is about to step."""
        weight = _smallest(optimizer) if optimizer in self._unseen else None
        self._before[optimizer] = _versions(optimizer), weight, None if weight is None else weight.detach().clone()

    def ends(self, optimizer: Optimizer) -> None:
        """``optimizer`` has stepped."""
        versions, weight, value = self._before.pop(optimizer, (None, None, None))
        if versions not in (None, _versions(optimizer)):
            self._unseen[optimizer] = 0
        elif weight is not None and value is not None and not torch.equal(weight, value):
            self._unseen[optimizer] = 0  # written through ``.data``
        elif optimizer in self._unseen:
            self._unseen[optimizer] += 1
            if self._unseen[optimizer] > MOST_SKIPPED:
                del self._unseen[optimizer]

    def has_taken(self, optimizer: Optimizer) -> bool:
        """Whether the last step of ``optimizer``, which its hooks still run for, has changed its weights."""
        return self._unseen.get(optimizer, 0) == 0 and not _skipped_by_scaler(optimizer)


def _smallest(optimizer: Any) -> Tensor | None:
    """The smallest weight with a gradient; none while a graph is captured, where all writes are seen."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return None
    found = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    return min(found, key=Tensor.numel, default=None)


def _versions(optimizer: Any) -> int:
    return sum(sum_of_versions(group["params"]) for group in optimizer.param_groups)


def _skipped_by_scaler(optimizer: Any) -> bool:
    """Whether a gradient scaler has told a fused optimizer that gradients are infinite.

    On a GPU this waits for them, as the scaler itself does before the step of any other optimizer.
    """
    found = getattr(optimizer, "found_inf", None)
    if not isinstance(found, Tensor) or (found.is_cuda and torch.cuda.is_current_stream_capturing()):
        return False
    return bool(found)
