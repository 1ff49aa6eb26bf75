"""``BernoulliSchedule``: each step is low with a probability per epoch, otherwise full (§3.1 of arXiv 1910.06548)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules.base import PlannedSchedule
from lowmode_fx.runtime.schedules.draws import uniform_draw
from lowmode_fx.runtime.schedules.per_epoch import as_per_epoch, value_at, varies
from lowmode_fx.utils.validation import as_choice, as_count, as_probability, as_seed, as_share

__all__ = ["BernoulliSchedule", "annealed_shares"]


@dataclass(frozen=True)
class BernoulliSchedule(PlannedSchedule):
    """Each step is low with probability ``p[epoch]``, independently of the others (§3.1).

    The paper's setting is ``BernoulliSchedule(p=0.5, hold_epochs=4, milestones=(0, 80, 120))``.

    Args:
        p: Probability of a low step: a number in [0, 1], a sequence with one per epoch (the last applies to later
            epochs), or a function of the epoch. ``p=0`` is plain full-mode training.
        seed: An int from 0 to 2**64 - 1.
        hold_epochs: Number of epochs that are full after each milestone.
        milestones: Epochs at which the learning rate changes, 0 for the start.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Warns:
        UserWarning: ``hold_epochs`` has no effect without milestones.
    """

    kind: ClassVar[str] = "bernoulli"
    p: float | Sequence[float] | Callable[[int], float] = 0.5
    seed: int = 0
    hold_epochs: int = 0
    milestones: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not callable(self.p):
            object.__setattr__(self, "p", as_per_epoch("p", self.p, as_probability))
        object.__setattr__(self, "seed", as_seed(self.seed))
        self._check_hold()

    @classmethod
    def annealed(
        cls, p: float = 0.9, *, epochs: int, tail: float = 0.5, shape: str = "step", seed: int = 0
    ) -> BernoulliSchedule:
        """Return a schedule with a high probability at first, and full epochs at the end.

        Args:
            p: Probability of a low step at the start, in [0, 1].
            epochs: Number of epochs.
            tail: Share of ``epochs``, in [0, 1], that is full at the end, rounded up to whole epochs.
            shape: ``"step"`` keeps ``p`` up to the tail; ``"linear"`` and ``"cosine"`` let it fall from ``p`` to 0.
            seed: An int from 0 to 2**64 - 1.

        Raises:
            ValueError: A value is out of range.
        """
        return cls(annealed_shares(p, epochs, tail, shape), seed)

    @property
    def varies_by_epoch(self) -> bool:
        """Whether ``p`` is a function or differs between epochs, or epochs are held."""
        return varies(self.p) or super().varies_by_epoch

    def low_probability(self, epoch: int) -> float:
        """Return the probability that a step of ``epoch`` is low; 0 in a held epoch.

        Raises:
            ValueError: The function ``p`` returns a value outside [0, 1].
        """
        epoch = as_count("epoch", epoch)
        if self.is_held(epoch):
            return 0.0
        if callable(self.p):
            return as_probability(f"p({epoch})", self.p(epoch))
        return value_at(self.p, epoch)

    def mode_probabilities(self, epoch: int) -> dict[Mode, float]:
        """Return both modes' probabilities in ``epoch``."""
        low = self.low_probability(epoch)
        return {Mode.LOW: low, Mode.FULL: 1.0 - low}

    def mode(self, step: int, epoch: int) -> Mode:
        """Return the mode of an optimizer step.

        Args:
            step: Optimizer step, from 0 over the whole run.
            epoch: Epoch of the step, from 0.

        Raises:
            ValueError: ``step`` or ``epoch`` is negative.
        """
        step = as_count("step", step)
        return Mode.LOW if uniform_draw(self.seed, step) < self.low_probability(epoch) else Mode.FULL

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as JSON's types, for ``schedule_from_dict``.

        Raises:
            TypeError: ``p`` is a function.
        """
        if callable(self.p):
            raise TypeError(
                f"p={self.p!r} is a function, which can't be serialised; "
                "give its values: p=[function(epoch) for epoch in range(epochs)]"
            )
        return super().to_dict()


def annealed_shares(p: float, epochs: int, tail: float, shape: str = "step") -> list[float]:
    """One low probability per epoch, as in ``BernoulliSchedule.annealed``."""
    p, epochs, tail = as_probability("p", p), as_count("epochs", epochs, 1), as_share("tail", tail)
    annealing = _ANNEALING[as_choice("shape", shape, list(_ANNEALING))]
    early = epochs - math.ceil(tail * epochs)
    return [p * annealing(epoch / early) for epoch in range(early)] + [0.0] * (epochs - early)


#: Factor of p after a share in [0, 1) of the epochs before the tail.
_ANNEALING: dict[str, Callable[[float], float]] = {
    "step": lambda share: 1.0,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: (1.0 + math.cos(math.pi * share)) / 2,
}
