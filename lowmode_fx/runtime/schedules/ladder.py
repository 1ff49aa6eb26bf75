"""``LadderSchedule``: a ladder's modes in turn, by epochs or shares of the run, or mixed within an epoch."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules.base import PlannedSchedule
from lowmode_fx.runtime.schedules.draws import uniform_draw
from lowmode_fx.runtime.schedules.per_epoch import varies
from lowmode_fx.utils.validation import as_count, as_probability, as_seed, as_sequence, as_share
from passes.errors import OptionError, OptionTypeError

__all__ = ["LadderSchedule", "epochs_of_shares"]

_Number = TypeVar("_Number", int, float)

#: Tolerance of the sum of shares or probabilities, which must be 1: 0.333333 counts as a third.
_ROUNDING = 1e-5


@dataclass(frozen=True, init=False)
class LadderSchedule(PlannedSchedule):
    """The modes of a ladder one after the other, cheapest first and full last, or mixed within an epoch.

    Give ``epochs``, or ``shares`` and ``epochs``, or ``probabilities``, with one value per mode, for two modes or more.

    Args:
        epochs: Epochs of each mode in turn, ``(10, 6, 3)``; later epochs are full. With ``shares``, the number of
            epochs of the run.
        shares: Share of the run of each mode, ``(0.5, 0.3, 0.2)``. An epoch belongs to the mode in whose share its
            middle lies (at a boundary, to the later mode), but a full tail with any share has at least one epoch.
        probabilities: One row per epoch, ``[(0.7, 0.2, 0.1), …]`` (the last applies to later epochs), with which each
            step's mode is drawn independently. With two modes, ``[(p, 1 - p), …]`` gives the same draws as
            ``BernoulliSchedule``.
        seed: Seed of the draws, an int from 0 to 2**64 - 1; only for ``probabilities``.
        modes: Names of the modes, ``("r2", "r4/3", "full")``; by default places, ``Mode.at(place, count)``, which fit
            any ladder with as many modes.
        hold_epochs: Number of epochs that are full after each milestone.
        milestones: Epochs at which the learning rate changes, 0 for the start.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or shares or a row don't sum to 1.

    Warns:
        UserWarning: ``hold_epochs`` has no effect without milestones.
    """

    kind: ClassVar[str] = "ladder"
    #: Shares of ``default``, for r = 2, r = 4/3 and full-mode.
    DEFAULT_SHARES: ClassVar[tuple[float, ...]] = (0.5, 0.3, 0.2)
    #: The same by the number of modes; of four the first is at r = 8/3.
    SHARES: ClassVar[Mapping[int, tuple[float, ...]]] = {3: DEFAULT_SHARES, 4: (0.3, 0.4, 0.1, 0.2)}
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
                raise ValueError(f"probabilities and {other} can't be combined; give one of them")
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
    def default(cls, epochs: int, modes: int = 3) -> LadderSchedule:
        """Return the default: shares of 0.5, 0.3 and 0.2, cheapest first; for four modes 0.3, 0.4, 0.1 and 0.2.

        They were measured with r = 2, 4/3 and 1, and with r = 8/3, 2, 4/3 and 1
        (``bench/results/ablation_cpu.md``). In a run of a few epochs a mode with a small share may have none.

        Args:
            epochs: Number of epochs of the run.
            modes: Number of modes, full-mode included: 3 or 4.

        Raises:
            ValueError: There is no default for that many modes.
        """
        if as_count("modes", modes, 2) not in cls.SHARES:
            raise ValueError(f"modes={modes} has no default, only 3 and 4; give LadderSchedule(epochs, shares=…)")
        return cls(epochs, shares=cls.SHARES[modes])

    @property
    def count(self) -> int:
        """Number of modes that a ladder must have for this schedule."""
        return len(self.modes)

    @property
    def varies_by_epoch(self) -> bool:
        """Whether a mode other than full has epochs, or rows of probabilities differ, or epochs are held."""
        plan = any(self.epochs[:-1]) if self.epochs is not None else varies(self.probabilities)
        return plan or super().varies_by_epoch

    def mode_probabilities(self, epoch: int) -> dict[Mode, float]:
        """Return each mode's probability in ``epoch``, cheapest first; 0 or 1 where an epoch has one mode."""
        return dict(zip(self.modes, self._row(as_count("epoch", epoch)), strict=True))

    def mode(self, step: int, epoch: int) -> Mode:
        """Return the mode of an optimizer step.

        Args:
            step: Optimizer step, from 0 over the whole run.
            epoch: Epoch of the step, from 0.

        Raises:
            ValueError: ``step`` or ``epoch`` is negative.
        """
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
    """Shares of the run as whole epochs, ``epochs`` (1 or more) in total; a last share above 0 gets at least one.

    An epoch belongs to the share in which its middle lies, at a boundary to the later one.
    """
    most = epochs - 1 if shares[-1] > 0 else epochs
    # Rounded first, so that 0.1 + 0.2 of five epochs end at 1.5, not slightly above it.
    positions = [round(math.fsum(shares[: place + 1]) * epochs, 9) for place in range(len(shares) - 1)]
    ends = [min(math.ceil(position - 0.5), most) for position in positions] + [epochs]
    return tuple(end - start for start, end in zip([0, *ends[:-1]], ends, strict=True))


def _only(place: int, count: int) -> tuple[float, ...]:
    return tuple(float(other == place) for other in range(count))


def _place(draw: float, row: Sequence[float]) -> int:
    """The first place at which the cumulative probability exceeds ``draw``, so never one of probability 0."""
    last = max(place for place, probability in enumerate(row) if probability > 0)
    # What rounding leaves of 1 belongs to the last one.
    return next((place for place in range(last) if draw < math.fsum(row[: place + 1])), last)


def _plan(epochs: Any, shares: Any) -> tuple[int, ...]:
    if shares is not None:
        if epochs is None or isinstance(epochs, Iterable):
            raise ValueError(
                f"epochs={epochs!r} is not the length of a run; give an int with shares, such as epochs=30"
            )
        checked = _values("shares", shares, as_share)
        _check_sum("shares", checked)
        return epochs_of_shares(checked, as_count("epochs", epochs, 1))
    if epochs is None:
        raise ValueError("LadderSchedule has no plan; give epochs=(10, 6, 3), or shares and epochs, or probabilities")
    if not isinstance(epochs, Iterable):
        raise ValueError(
            f"epochs={epochs!r} is one number; give one per mode, such as epochs=(10, 6, 3), or shares with it"
        )
    floats = isinstance(epochs, tuple | list) and all(isinstance(each, float) for each in epochs)
    if floats and abs(math.fsum(epochs) - 1) <= _ROUNDING:
        told = tuple(epochs)
        raise OptionTypeError("epochs", told, "are shares of the run", f"give shares={told} and epochs, such as 30")
    return _values("epochs", epochs, as_count)


def _rows(probabilities: Any) -> tuple[tuple[float, ...], ...]:
    given = as_sequence("probabilities", probabilities, "one row per epoch: [(0.7, 0.2, 0.1)]")
    rows = tuple(_values(f"probabilities[{epoch}]", row, as_probability) for epoch, row in enumerate(given))
    if not rows:
        raise ValueError("probabilities is empty; give one row per epoch, or one for all: [(0.7, 0.2, 0.1)]")
    for epoch, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"probabilities[{epoch}] has {len(row)} values, but the first row has {len(rows[0])}; give one per mode"
            )
        _check_sum(f"probabilities[{epoch}]", row)
    return rows


def _values(name: str, values: Any, check: Callable[[str, Any], _Number]) -> tuple[_Number, ...]:
    give = "one value per mode, cheapest first and full last"
    given = as_sequence(name, values, give)
    checked = tuple(check(f"{name}[{place}]", value) for place, value in enumerate(given))
    if len(checked) < 2:
        raise OptionError(name, checked, "is too short", f"give {give}")
    return checked


def _check_sum(name: str, values: tuple[float, ...]) -> None:
    if abs(math.fsum(values) - 1) > _ROUNDING:
        raise OptionError(name, values, f"sums to {math.fsum(values):g}", "give values that sum to 1")


def _modes(names: Any, count: int) -> tuple[Mode, ...]:
    if names is None:
        return tuple(Mode.at(place, count) for place in range(count))
    given = as_sequence("modes", names, "names, such as ('r2', 'r4/3', 'full')")
    modes = tuple(name if isinstance(name, Mode) else Mode(name) for name in given)
    told = tuple(map(str, modes))
    if len(modes) != count:
        raise ValueError(f"modes={told} has {len(modes)} names for {count} values; give one per value, 'full' last")
    if modes[-1] is not Mode.FULL or len(set(modes)) < count:
        raise ValueError(f"modes={told} is not a ladder; give each mode once, cheapest first and 'full' last")
    return modes
