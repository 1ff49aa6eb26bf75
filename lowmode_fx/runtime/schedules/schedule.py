"""Which step runs in which mode: pure functions of (seed, step, epoch) (§3.1 of arXiv 1910.06548).

The schedules here keep no state and ask no generator, so every rank, every loader worker and every resumed run gets the
same answer for the same step without talking to the others. One that decides as it goes is in ``agreement_schedule``.
"""

import math
import numbers
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, SupportsIndex, TypeVar, runtime_checkable

from lowmode_fx.lowering.mode import Mode

__all__ = [
    "BernoulliSchedule",
    "Decides",
    "Mode",
    "PeriodicSchedule",
    "Schedule",
    "annealed_shares",
    "low_fraction",
    "schedule_from_dict",
    "uniform_draw",
]

_Number = TypeVar("_Number", int, float)

_WORD = 2**64 - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


@runtime_checkable
class Schedule(Protocol):
    """What picks a step's mode. Pure, given the decisions of one that decides: equal arguments, equal answers."""

    def mode(self, step: int, epoch: int) -> Mode:
        """The mode of optimizer step ``step`` (counted from 0 over the whole run) in epoch ``epoch`` (from 0)."""
        ...


@runtime_checkable
class Decides(Protocol):
    """A schedule whose decisions are state: they are saved with a run and loaded with it."""

    def state_dict(self) -> dict[str, Any]:
        """The decisions so far, in plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        ...


def _mix(word: int) -> int:
    """SplitMix64's finaliser: a bijection of 64-bit words in which each input bit flips about half the output."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def uniform_draw(seed: int, step: int) -> float:
    """The draw of step ``step`` (at least 0) under ``seed`` (0 to 2**64 - 1): uniform in [0, 1), a multiple of 2**-53.

    It is a counter-based generator: the value depends on the two integers alone, by integer arithmetic that
    every machine and every version of Python does alike.
    """
    # The seed is mixed before the step is added: were it not, seed + 1 would give seed's stream one step on.
    key = _mix((seed + _GOLDEN_GAMMA) & _WORD)
    return (_mix((key + step * _GOLDEN_GAMMA) & _WORD) >> 11) * 2.0**-53


@dataclass(frozen=True)
class BernoulliSchedule:
    """Each step is low with probability ``p[epoch]``, independently of the others (§3.1).

    ``p`` is a number in [0, 1], a sequence with one for each epoch (the last goes on for later epochs), or a function
    of the epoch. ``p=0`` is plain full-mode training. ``seed`` is an int from 0 to 2**64 - 1. The ``hold_epochs``
    epochs that start at each of ``milestones`` (epochs in which the learning rate changes, 0 for the start) are full.
    The paper's setting: ``BernoulliSchedule(p=0.5, hold_epochs=4, milestones=(0, 80, 120))``.

    Raises ``TypeError`` or ``ValueError`` for arguments of another kind or range. A hold without milestones
    has no effect and gives a ``UserWarning``.
    """

    p: float | Sequence[float] | Callable[[int], float] = 0.5
    seed: int = 0
    hold_epochs: int = 0
    milestones: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not callable(self.p):
            object.__setattr__(self, "p", _per_epoch("p", self.p, _probability))
        seed = _count("seed", self.seed)
        if seed > _WORD:
            raise ValueError(f"seed={seed} does not fit in 64 bits; give an int from 0 to 2**64 - 1")
        object.__setattr__(self, "seed", seed)
        _set_hold(self)

    @classmethod
    def annealed(
        cls, p: float = 0.9, *, epochs: int, tail: float = 0.5, shape: str = "step", seed: int = 0
    ) -> "BernoulliSchedule":
        """p high early, and zero in the tail: the last ``tail`` (a share in [0, 1]) of ``epochs`` epochs, rounded up.

        shape: ``"step"`` holds ``p`` up to the tail; ``"linear"`` and ``"cosine"`` let it fall from ``p`` to 0 there.
        Raises ``ValueError`` for values out of range.
        """
        return cls(annealed_shares(p, epochs, tail, shape), seed)

    def low_probability(self, epoch: int) -> float:
        """The probability with which a step of ``epoch`` is low; 0 in a held epoch.

        Raises ``ValueError`` when the function ``p`` gives a value outside [0, 1].
        """
        epoch = _count("epoch", epoch)
        if _is_held(self, epoch):
            return 0.0
        if callable(self.p):
            return _probability(f"p({epoch})", self.p(epoch))
        return _value_at(self.p, epoch)

    def mode(self, step: int, epoch: int) -> Mode:
        """The mode of global optimizer step ``step`` in ``epoch``. Raises ``ValueError`` if either is negative."""
        step = _count("step", step)
        return Mode.LOW if uniform_draw(self.seed, step) < self.low_probability(epoch) else Mode.FULL

    def to_dict(self) -> dict[str, Any]:
        """The schedule as JSON's types, for ``schedule_from_dict``. Raises ``TypeError`` when ``p`` is a function."""
        if callable(self.p):
            raise TypeError(
                f"p={self.p!r} is a function, which a dict cannot hold; "
                "give its values: p=[function(epoch) for epoch in range(epochs)]"
            )
        return _to_dict("bernoulli", self)


@dataclass(frozen=True)
class PeriodicSchedule:
    """The last ``low_steps`` steps of every ``period`` steps are low: the deterministic schedule of §3.1.

    ``low_steps`` is an int from 0 to ``period``, or a sequence with one for each epoch (the last goes on for later
    epochs). Periods are counted in global optimizer steps: an epoch's start does not restart one. ``hold_epochs``
    and ``milestones`` are as in ``BernoulliSchedule``.

    Raises ``TypeError`` or ``ValueError`` for arguments of another kind or range. A hold without milestones
    has no effect and gives a ``UserWarning``.
    """

    period: int = 2
    low_steps: int | Sequence[int] = 1
    hold_epochs: int = 0
    milestones: Sequence[int] = ()

    def __post_init__(self) -> None:
        period = _count("period", self.period, minimum=1)
        object.__setattr__(self, "period", period)

        def steps_in_period(name: str, value: int) -> int:
            steps = _count(name, value)
            if steps > period:
                raise ValueError(f"{name}={steps} is more than period={period}; give an int from 0 to {period}")
            return steps

        object.__setattr__(self, "low_steps", _per_epoch("low_steps", self.low_steps, steps_in_period))
        _set_hold(self)

    def mode(self, step: int, epoch: int) -> Mode:
        """The mode of global optimizer step ``step`` in ``epoch``. Raises ``ValueError`` if either is negative."""
        step, epoch = _count("step", step), _count("epoch", epoch)
        if _is_held(self, epoch):
            return Mode.FULL
        low_steps = _value_at(self.low_steps, epoch)
        return Mode.LOW if step % self.period >= self.period - low_steps else Mode.FULL

    def to_dict(self) -> dict[str, Any]:
        """The schedule as JSON's types, for ``schedule_from_dict``."""
        return _to_dict("periodic", self)


_KINDS: dict[str, type[BernoulliSchedule] | type[PeriodicSchedule]] = {
    "bernoulli": BernoulliSchedule,
    "periodic": PeriodicSchedule,
}


def annealed_shares(p: float, epochs: int, tail: float, shape: str = "step") -> list[float]:
    """One low probability an epoch, as ``BernoulliSchedule.annealed`` has them."""
    p, epochs = _probability("p", p), _count("epochs", epochs, 1)
    if not 0 <= tail <= 1:
        raise ValueError(f"tail={tail!r} is no share; give a number from 0 to 1")
    if shape not in _ANNEALING:
        raise ValueError(f"shape={shape!r} is unknown; give one of {', '.join(map(repr, _ANNEALING))}")
    early = epochs - math.ceil(tail * epochs)
    return [p * _ANNEALING[shape](epoch / early) for epoch in range(early)] + [0.0] * (epochs - early)


#: What is left of p after a share in [0, 1) of the epochs before the tail.
_ANNEALING: dict[str, Callable[[float], float]] = {
    "step": lambda share: 1.0,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: (1.0 + math.cos(math.pi * share)) / 2,
}


def schedule_from_dict(values: Mapping[str, Any]) -> BernoulliSchedule | PeriodicSchedule:
    """The schedule that ``to_dict`` wrote: ``kind`` and the schedule's arguments, left-out ones at their defaults.

    Raises ``ValueError`` for an unknown kind or argument, and what the schedule itself raises for a bad value.
    """
    arguments = dict(values)
    kind = arguments.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"kind={kind!r} names no schedule; give one of {sorted(_KINDS)}")
    allowed = [field.name for field in fields(_KINDS[kind])]
    if unknown := sorted(set(arguments) - set(allowed)):
        raise ValueError(f"a {kind} schedule has no argument {', '.join(unknown)}; it takes {', '.join(allowed)}")
    return _KINDS[kind](**arguments)


def low_fraction(schedule: Schedule, epochs: int, steps_per_epoch: int) -> float:
    """The expected fraction, 0 to 1, of low steps in a run of ``epochs`` × ``steps_per_epoch`` optimizer steps.

    A Bernoulli schedule gives the mean of its probabilities; any other is asked for every step, and counted.
    Raises ``ValueError`` when either count is below 1.
    """
    epochs, steps_per_epoch = _count("epochs", epochs, 1), _count("steps_per_epoch", steps_per_epoch, 1)
    if isinstance(schedule, BernoulliSchedule):
        return math.fsum(map(schedule.low_probability, range(epochs))) / epochs
    steps = epochs * steps_per_epoch
    return sum(schedule.mode(step, step // steps_per_epoch) is Mode.LOW for step in range(steps)) / steps


def _count(name: str, value: SupportsIndex, minimum: int = 0) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; give an int of at least {minimum}")
    count = operator.index(value)
    if count < minimum:
        raise ValueError(f"{name}={count} is too small; give an int of at least {minimum}")
    return count


def _probability(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; give a number from 0 to 1")
    # Written so that not-a-number fails too.
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={value!r} is no probability; give a number from 0 to 1")
    return float(value)


def _per_epoch(name: str, values: Any, check: Callable[[str, Any], _Number]) -> _Number | tuple[_Number, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        return check(name, values)
    checked = tuple(check(f"{name}[{epoch}]", value) for epoch, value in enumerate(values))
    if not checked:
        raise ValueError(f"{name} is empty; give one value for each epoch, or a single value for all of them")
    return checked


def _value_at(values: _Number | Sequence[_Number], epoch: int) -> _Number:
    return values[min(epoch, len(values) - 1)] if isinstance(values, Sequence) else values


def _set_hold(schedule: BernoulliSchedule | PeriodicSchedule) -> None:
    hold_epochs = _count("hold_epochs", schedule.hold_epochs)
    if isinstance(schedule.milestones, str) or not isinstance(schedule.milestones, Iterable):
        raise TypeError(f"milestones={schedule.milestones!r} is no sequence; give epochs, such as (0, 80, 120)")
    milestones = tuple(_count(f"milestones[{place}]", epoch) for place, epoch in enumerate(schedule.milestones))
    if hold_epochs and not milestones:
        warnings.warn(
            f"hold_epochs={hold_epochs} has no effect without milestones; give the epochs in which the learning rate "
            "changes, such as milestones=(0,) for the start alone",
            stacklevel=4,  # the caller of the schedule's generated __init__
        )
    object.__setattr__(schedule, "hold_epochs", hold_epochs)
    object.__setattr__(schedule, "milestones", tuple(sorted(set(milestones))))


def _is_held(schedule: BernoulliSchedule | PeriodicSchedule, epoch: int) -> bool:
    return any(start <= epoch < start + schedule.hold_epochs for start in schedule.milestones)


def _to_dict(kind: str, schedule: BernoulliSchedule | PeriodicSchedule) -> dict[str, Any]:
    values = {field.name: getattr(schedule, field.name) for field in fields(schedule)}
    return {"kind": kind} | {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
