"""One recorded step: the gradients that it starts from, and those that it leaves."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from lowmode_fx.runtime.captured.signature import StaticBatch

_GRADIENT = operator.attrgetter("grad")


class Place(NamedTuple):
    """The position of a batch among those of one optimizer step."""

    first: bool
    last: bool


@dataclass
class Recorded:
    """``before``, ``after``: the gradients when a replay begins and when it has ended; replays fill them.

    ``skipped``: above 0 where a gradient scaler had the optimizer step skipped.
    """

    static: StaticBatch
    play: Callable[[], None]
    loss: Tensor
    norm: Tensor | None
    skipped: Tensor | None
    before: list[Tensor | None]
    after: list[Tensor | None]
    _accumulates: bool = field(init=False)

    def __post_init__(self) -> None:
        self._accumulates = not same_tensors(self.before, self.after)

    def replay(self, leaves: list[Any], parameters: Sequence[Tensor]) -> Tensor:
        """Run the step on a batch's leaves. Returns its loss as a new tensor."""
        self.static.fill(leaves)
        self.play()
        if self._accumulates:
            for parameter, gradient in zip(parameters, self.after, strict=True):
                parameter.grad = gradient
        return self.loss.clone()


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor | None]:
    """The gradients that parameters have."""
    return list(map(_GRADIENT, parameters))


def same_tensors(now: Sequence[Tensor | None], before: Sequence[Tensor | None]) -> bool:
    """Whether two lists hold the same tensor objects."""
    return len(now) == len(before) and all(map(operator.is_, now, before))
