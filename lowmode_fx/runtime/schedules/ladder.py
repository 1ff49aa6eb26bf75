"""The rungs of a ladder, cheapest first and full last: by epochs, by shares of the run, or mixed within an epoch."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules.base import PlannedSchedule
from lowmode_fx.runtime.schedules.draws import uniform_draw
from lowmode_fx.utils.validation import as_count, as_probability, as_seed, as_sequence, as_share
from passes.errors import OptionError

__all__ = ["LadderSchedule", "epochs_of_shares"]

_Number = TypeVar("_Number", int, float)

#: By how much shares and probabilities may miss 1 altogether: 0.333333 is taken for a third.
_ROUNDING = 1e-5


@dataclass(frozen=True, init=False)
class LadderSchedule(PlannedSchedule):
    """The modes of a ladder one after the other, cheapest first and full last, or mixed within an epoch.

    One of these, with a value for each mode (two modes or more), cheapest first and full last:

    - ``epochs=(10, 6, 3)``: how many epochs each mode has, one after the other; later epochs are full.
    - ``shares=(0.5, 0.3, 0.2), epochs=30``: the same by shares of the run. An epoch is of the mode in whose share its
      middle lies (of the later one, where two meet there), but a full tail with any share has one epoch at least.
    - ``probabilities=[(0.7, 0.2, 0.1), …]``: a row for each epoch (the last goes on for later epochs), by which each
      step's mode is drawn, independently of the others. Of two modes, ``[(p, 1 - p), …]`` is ``BernoulliSchedule``
      draw for draw. ``seed``, an int from 0 to 2**64 - 1, counts here only.

    ``modes`` are the modes' names, ``("r2", "r4/3", "full")``; by default they are places, ``Mode.at(place, count)``,
    which a ladder takes for its own modes. ``hold_epochs`` and ``milestones`` are as in ``BernoulliSchedule``.

    Raises ``TypeError`` or ``ValueError`` for arguments of another kind or range, and for shares or a row that don't
    add up to 1. A hold without milestones has no effect and gives a ``UserWarning``.
    """

    kind: ClassVar[str] = "ladder"
    #: Of ``default``, for r = 2, r = 4/3 and full-mode.
    DEFAULT_SHARES: ClassVar[tuple[float, ...]] = (0.5, 0.3, 0.2)
    epochs: tuple[int, ...] | None
    probabilities: tuple[tuple[float, ...], ...] | None
    seed: int
    modes: tuple[Mode, ...]
    hold_epochs: int
    milestones: Sequence[int]

    def __init__(
        self,
        epochs: Sequence[int] | int | None = None,
        *,
        shares: Sequence[float] | None = None,
        probabilities: Sequence[Sequence[float]] | None = None,
        seed: int = 0,
        modes: Sequence[str | Mode] | None = None,
        hold_epochs: int = 0,
        milestones: Sequence[int] = (),
    ) -> None:
        rows = None
        if probabilities is None:
            epochs = _plan(epochs, shares)
            count = len(epochs)
        else:
            if epochs is not None or shares is not None:
                other = "epochs" if shares is None else "shares"
                raise ValueError(f"probabilities and {other} exclude each other; give one of them")
            rows = _rows(probabilities)
            count = len(rows[0])
        values = {
            "epochs": epochs,
            "probabilities": rows,
            "seed": as_seed(seed),
            "modes": _modes(modes, count),
            "hold_epochs": hold_epochs,
            "milestones": milestones,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check_hold(stacklevel=3)

    @classmethod
    def default(cls, epochs: int) -> LadderSchedule:
        """For three modes: half of ``epochs`` epochs in the cheapest, three tenths in the next, the rest full."""
        return cls(epochs, shares=cls.DEFAULT_SHARES)

    @property
    def count(self) -> int:
        """How many modes a ladder must have for this schedule."""
        return len(self.modes)

    def mode_probabilities(self, epoch: int) -> dict[Mode, float]:
        """Each mode's probability in ``epoch``, cheapest first; 0 and 1 where an epoch has one mode."""
        return dict(zip(self.modes, self._row(as_count("epoch", epoch)), strict=True))

    def mode(self, step: int, epoch: int) -> Mode:
        """The mode of global optimizer step ``step`` in ``epoch``. Raises ``ValueError`` if either is negative."""
        step, epoch = as_count("step", step), as_count("epoch", epoch)
        return self.modes[_place(uniform_draw(self.seed, step), self._row(epoch))]

    def _row(self, epoch: int) -> tuple[float, ...]:
        """The modes' probabilities in ``epoch``."""
        if self.is_held(epoch):
            return _only(self.count - 1, self.count)
        if self.probabilities is not None:
            return self.probabilities[min(epoch, len(self.probabilities) - 1)]
        assert self.epochs is not None
        ends = list(itertools.accumulate(self.epochs[:-1]))
        return _only(bisect.bisect_right(ends, epoch), self.count)


def epochs_of_shares(shares: Sequence[float], epochs: int) -> tuple[int, ...]:
    """Shares of the run as whole epochs, ``epochs`` (1 or more) altogether; a last share above 0 gets one at least.

    An epoch goes to the share in which its middle lies, and to the later one where two of them meet there.
    """
    most = epochs - 1 if shares[-1] > 0 else epochs
    # Rounded first, so that 0.1 + 0.2 of five epochs end at 1.5, not a hair behind.
    positions = [round(math.fsum(shares[: place + 1]) * epochs, 9) for place in range(len(shares) - 1)]
    ends = [min(math.ceil(position - 0.5), most) for position in positions] + [epochs]
    return tuple(end - start for start, end in zip([0, *ends[:-1]], ends, strict=True))


def _only(place: int, count: int) -> tuple[float, ...]:
    return tuple(float(other == place) for other in range(count))


def _place(draw: float, row: Sequence[float]) -> int:
    """The first place at which the probabilities so far exceed ``draw``: never one of probability 0."""
    last = max(place for place, probability in enumerate(row) if probability > 0)
    # Whatever rounding leaves of 1 is the last one's.
    return next((place for place in range(last) if draw < math.fsum(row[: place + 1])), last)


def _plan(epochs: Any, shares: Any) -> tuple[int, ...]:
    if shares is not None:
        if epochs is None or isinstance(epochs, Iterable):
            raise ValueError(f"epochs={epochs!r} says nothing of the run's length; give it with shares: epochs=30")
        checked = _values("shares", shares, as_share)
        _check_sum("shares", checked)
        return epochs_of_shares(checked, as_count("epochs", epochs, 1))
    if epochs is None:
        raise ValueError("a ladder's plan is missing; give epochs=(10, 6, 3), or shares and epochs, or probabilities")
    if not isinstance(epochs, Iterable):
        raise ValueError(
            f"epochs={epochs!r} is one number; give one for each mode, such as epochs=(10, 6, 3), or shares with it"
        )
    return _values("epochs", epochs, as_count)


def _rows(probabilities: Any) -> tuple[tuple[float, ...], ...]:
    given = as_sequence("probabilities", probabilities, "a row for each epoch: [(0.7, 0.2, 0.1)]")
    rows = tuple(_values(f"probabilities[{epoch}]", row, as_probability) for epoch, row in enumerate(given))
    if not rows:
        raise ValueError("probabilities is empty; give a row for each epoch, or one for all: [(0.7, 0.2, 0.1)]")
    for epoch, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"probabilities[{epoch}] has {len(row)} values, and the first row {len(rows[0])}; give one a mode"
            )
        _check_sum(f"probabilities[{epoch}]", row)
    return rows


def _values(name: str, values: Any, check: Callable[[str, Any], _Number]) -> tuple[_Number, ...]:
    give = "one value for each mode, cheapest first and full last"
    given = as_sequence(name, values, give)
    checked = tuple(check(f"{name}[{place}]", value) for place, value in enumerate(given))
    if len(checked) < 2:
        raise OptionError(name, checked, "is too short", f"give {give}")
    return checked


def _check_sum(name: str, values: tuple[float, ...]) -> None:
    if abs(math.fsum(values) - 1) > _ROUNDING:
        raise OptionError(name, values, f"adds up to {math.fsum(values):g}", "give values that add up to 1")


def _modes(names: Any, count: int) -> tuple[Mode, ...]:
    if names is None:
        return tuple(Mode.at(place, count) for place in range(count))
    given = as_sequence("modes", names, "names, such as ('r2', 'r4/3', 'full')")
    modes = tuple(name if isinstance(name, Mode) else Mode(name) for name in given)
    told = tuple(map(str, modes))
    if len(modes) != count:
        raise ValueError(f"modes={told} has {len(modes)} names for {count} values; give one for each, the last 'full'")
    if modes[-1] is not Mode.FULL or len(set(modes)) < count:
        raise ValueError(f"modes={told} is no ladder; give each mode once, cheapest first and 'full' last")
    return modes
