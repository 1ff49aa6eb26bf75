"""Gradients that a first batch leaves for those that add to them: the same memory, whatever the batches' shapes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lowmode_fx.lowering.mode import Mode


class SharedGradients:
    """Lets each kind of a later batch follow each kind of a first one.

    A mode's first recording of a first batch keeps its gradients as they are, and others copy theirs there. All that
    add to them are recorded later, so that none of these uses the memory for anything else.
    """

    def __init__(self) -> None:
        self._gradients: dict[tuple[Mode, int], Tensor] = {}

    def clear(self) -> None:
        """Begin anew; recordings that have been made are dropped."""
        self._gradients.clear()

    def move(self, mode: Mode, parameters: Sequence[Tensor], before: Sequence[Tensor | None]) -> None:
        """Move the gradients that a first batch has left, except those that it has added to, while it is recorded."""
        for parameter, was in zip(parameters, before, strict=True):
            gradient = parameter.grad
            if gradient is None or gradient is was:
                continue
            shared = self._gradients.setdefault((mode, id(parameter)), gradient)
            if shared is not gradient:
                parameter.grad = shared.copy_(gradient)
