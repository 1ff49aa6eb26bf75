"""The schedule protocols, and the base class of planned schedules: held epochs, dicts, fractions of modes."""

from __future__ import annotations

import abc
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.utils.validation import as_count, as_sequence

if TYPE_CHECKING:  # schedules are plain arithmetic and import without torch
    import torch

    from lowmode_fx.lowering.ladder import ModePair

__all__ = [
    "DrawnSchedule",
    "MeasuringSchedule",
    "PlannedSchedule",
    "Schedule",
    "StatefulSchedule",
    "low_fraction",
    "mode_fractions",
]


@runtime_checkable
class Schedule(Protocol):
    """Protocol of a schedule: it chooses the mode of each step.

    ``mode`` is a pure function; of a schedule with state, given its decisions so far: equal arguments give equal
    results. A schedule whose modes depend on the epoch says so by an attribute ``varies_by_epoch`` that is true: the
    net then warns where ``set_epoch`` is forgotten.
    """

    def mode(self, step: int, epoch: int) -> Mode:
        """Return the mode of an optimizer step.

        Args:
            step: Optimizer step, from 0 over the whole run.
            epoch: Epoch of the step, from 0.
        """
        ...


@runtime_checkable
class StatefulSchedule(Protocol):
    """A schedule that decides during training: its decisions are state, saved and loaded with a run."""

    def state_dict(self) -> dict[str, Any]:
        """The decisions so far, as plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from ``state_dict()``."""
        ...


@runtime_checkable
class MeasuringSchedule(StatefulSchedule, Protocol):
    """A schedule that decides by measurements, for which the training loop gives it batches between two steps."""

    #: Number of batches of one measurement.
    batches: int

    def due(self, step: int, epoch: int) -> bool:
        """Whether a measurement is due before step ``step``."""
        ...

    def measure(
        self,
        pair: ModePair,
        batches: Iterable[tuple[torch.Tensor, Any]],
        criterion: Any,
        step: int,
        autocast: torch.dtype | None = None,
    ) -> float:
        """Measure on full-size batches, decide for the steps from ``step`` on, and return a low step's gain.

        The gain is in full steps. ``criterion(outputs, targets)`` is a scalar loss, ``autocast`` the dtype in which the
        run computes forwards, if any.
        """
        ...


@runtime_checkable
class DrawnSchedule(Protocol):
    """A schedule that draws the mode of each step independently, with constant probabilities within an epoch."""

    def mode_probabilities(self, epoch: int) -> Mapping[Mode, float]:
        """Each mode's probability in ``epoch``, 0 to 1; they sum to 1."""
        ...


class PlannedSchedule(abc.ABC):
    """A schedule that is known in advance for every step: a frozen dataclass, some of whose epochs may be held.

    Every step is full in the ``hold_epochs`` epochs that start at each of ``milestones`` (epochs in which the learning
    rate changes, 0 for the start). ``kind`` is the schedule's name in dicts.
    """

    kind: ClassVar[str]
    hold_epochs: int
    milestones: Sequence[int]

    @abc.abstractmethod
    def mode(self, step: int, epoch: int) -> Mode:
        """Return the mode of an optimizer step.

        Args:
            step: Optimizer step, from 0 over the whole run.
            epoch: Epoch of the step, from 0.

        Raises:
            ValueError: ``step`` or ``epoch`` is negative.
        """

    @property
    def varies_by_epoch(self) -> bool:
        """Whether steps of some epochs have other modes, or other probabilities of them, than those of others."""
        return bool(self.hold_epochs and self.milestones)

    def is_held(self, epoch: int) -> bool:
        """Whether every step of ``epoch`` is full because the learning rate has just changed."""
        return bool(self.milestones) and any(start <= epoch < start + self.hold_epochs for start in self.milestones)

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as JSON's types, for ``schedule_from_dict``."""
        values = {name: _plain(value) for name, value in vars(self).items() if value is not None}
        return {"kind": self.kind} | values

    def _check_hold(self, stacklevel: int = 4) -> None:
        """Check and normalise ``hold_epochs`` and ``milestones``; ``stacklevel`` is that of a warning.

        Its default leads from ``__post_init__`` to the caller of a dataclass's generated ``__init__``.
        """
        hold_epochs = as_count("hold_epochs", self.hold_epochs)
        given = as_sequence("milestones", self.milestones, "epochs, such as (0, 80, 120)")
        milestones = tuple(as_count(f"milestones[{place}]", epoch) for place, epoch in enumerate(given))
        if hold_epochs and not milestones:
            warnings.warn(
                f"hold_epochs={hold_epochs} has no effect without milestones; give the epochs at which the learning "
                "rate changes, such as milestones=(0,) for the start alone",
                stacklevel=stacklevel,
            )
        object.__setattr__(self, "hold_epochs", hold_epochs)
        object.__setattr__(self, "milestones", tuple(sorted(set(milestones))))


def mode_fractions(schedule: Schedule, epochs: int, steps_per_epoch: int) -> dict[Mode, float]:
    """The expected fraction of each mode, above 0 to 1, in a run of ``epochs`` × ``steps_per_epoch`` steps.

    For a schedule with probabilities it is their mean; any other schedule is evaluated for every step. Modes that never
    run are left out; full is the last one. Raises ``ValueError`` if either count is below 1.
    """
    epochs, steps_per_epoch = as_count("epochs", epochs, 1), as_count("steps_per_epoch", steps_per_epoch, 1)
    if isinstance(schedule, DrawnSchedule):
        rows = [schedule.mode_probabilities(epoch) for epoch in range(epochs)]
        modes = dict.fromkeys(mode for row in rows for mode in row)
        fractions = {mode: math.fsum(row.get(mode, 0.0) for row in rows) / epochs for mode in modes}
    else:
        steps = epochs * steps_per_epoch
        counts = Counter(schedule.mode(step, step // steps_per_epoch) for step in range(steps))
        fractions = {mode: count / steps for mode, count in counts.items()}
    return {mode: fractions[mode] for mode in sorted(fractions, key=lambda mode: mode is Mode.FULL) if fractions[mode]}


def low_fraction(schedule: Schedule, epochs: int, steps_per_epoch: int) -> float:
    """The expected fraction, 0 to 1, of steps that are not full, from ``mode_fractions``."""
    fractions = mode_fractions(schedule, epochs, steps_per_epoch)
    return math.fsum(fraction for mode, fraction in fractions.items() if mode is not Mode.FULL)


def _plain(value: Any) -> Any:
    """``value`` in JSON's types."""
    if isinstance(value, Mode):
        return value.value
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
