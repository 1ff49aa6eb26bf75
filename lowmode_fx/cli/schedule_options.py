"""From command-line options, or what the tuner wrote, to a schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from lowmode_fx.cli.ladder_options import EXAMPLE, LadderPlan
from lowmode_fx.runtime.schedules import BernoulliSchedule, LadderSchedule, PeriodicSchedule, annealed_shares
from lowmode_fx.train.settings import TrainSettings
from lowmode_fx.tuning.agreement_schedule import AgreementSchedule
from lowmode_fx.utils.validation import as_choice, as_share
from passes.errors import OptionError

if TYPE_CHECKING:
    from lowmode_fx.tuning.result import Tuning

ScheduleKind = Literal["bernoulli", "periodic", "agreement", "ladder"]


def schedule_kind(kind: str | None, plan: LadderPlan | None, shares: str | None) -> str:
    """The schedule that is meant: the one given, else the ladder's where there is one, else ``bernoulli``.

    Raises ``ValueError`` for one that there isn't, and for a ladder's options with another than its own.
    """
    if kind is not None:
        as_choice("schedule", kind, get_args(ScheduleKind))
    given = f"--ladder {plan.text}" if plan is not None else f"--shares {shares}" if shares is not None else ""
    if given and kind not in (None, "ladder"):
        raise ValueError(f"{given} has no meaning for --schedule {kind}; leave one of them out")
    return kind or ("ladder" if given else "bernoulli")


def ladder_epochs(plan: LadderPlan | None, epochs: int | None) -> int | None:
    """The run's epochs: of ``--epochs``, or the sum of ``--ladder``'s. Raises ``ValueError`` where the two differ."""
    if plan is None or not plan.epochs:
        return epochs
    total = sum(plan.epochs)
    if epochs not in (None, total):
        raise ValueError(f"--epochs {epochs} is not what --ladder {plan.text} adds up to, {total}; leave it out")
    return total


def make_schedule(
    kind: str,
    settings: TrainSettings,
    tuning: Tuning | None,
    *,
    p: str | None,
    tail: float | None,
    period: int | None,
    hold_epochs: int | None,
    every: int | None,
    paper: bool,
    plan: LadderPlan | None = None,
    shares: str | None = None,
    modes: Sequence[str] = ("low", "full"),
) -> BernoulliSchedule | PeriodicSchedule | AgreementSchedule | LadderSchedule:
    """The schedule of ``--schedule``, ``--p``, ``--ladder`` and the like; ``modes`` are the names of a ladder's.

    Raises ``ValueError`` for options at odds.
    """
    milestones = (0, *settings.rate_falls)
    if kind in ("periodic", "ladder") and (p is not None or tail is not None):
        option = f"--p {p}" if p is not None else f"--tail {tail:g}"
        instead = "--period" if kind == "periodic" else "--shares, or epochs in --ladder,"
        raise ValueError(f"{option} has no meaning for --schedule {kind}; give {instead} instead")
    if kind == "ladder" and shares is None and tuning is not None and isinstance(tuning.schedule, LadderSchedule):
        return _tuned(tuning, settings, hold_epochs, milestones, modes)
    if kind == "ladder":
        return _ladder(plan, shares, settings.epochs, modes, hold_epochs or 0, milestones if hold_epochs else ())
    # 4 of 200 epochs in the paper; in a run of ten, holding four after each change would leave none.
    hold = hold_epochs if hold_epochs is not None else 4 if paper else round(settings.epochs / 50)
    if kind == "periodic":
        return PeriodicSchedule(period=period or 2, hold_epochs=hold, milestones=milestones)
    if kind == "agreement":
        full_from = None if tail is None else settings.epochs - math.ceil(as_share("tail", tail) * settings.epochs)
        try:
            most = float(0.9 if p is None else p)
        except ValueError:
            raise OptionError(
                "p", p, "is no number", "give one, as --schedule agreement takes for steps that pay"
            ) from None
        return AgreementSchedule(
            every or 500, p=most, full_from=full_from, momentum=settings.momentum, seed=settings.seed
        )
    if tuning is not None and p is None and tail is None:
        return _tuned(tuning, settings, hold_epochs, milestones, modes)
    values = low_shares("0.5" if p is None else p, settings.epochs)
    if tail is not None:
        if isinstance(values, list):
            raise ValueError(f"--tail {tail:g} and a --p for each epoch exclude each other; give one number for --p")
        values = annealed_shares(values, settings.epochs, tail)
    return BernoulliSchedule(p=values, seed=settings.seed, hold_epochs=hold, milestones=milestones)


def _ladder(
    plan: LadderPlan | None,
    shares: str | None,
    epochs: int,
    modes: Sequence[str],
    hold_epochs: int,
    milestones: tuple[int, ...],
) -> LadderSchedule:
    schedule = partial(LadderSchedule, modes=modes, hold_epochs=hold_epochs, milestones=milestones)
    if plan is not None and not plan.ends_full:
        raise ValueError(f"--ladder {plan.text} has no full-mode; in train it ends with 1, as in {EXAMPLE}")
    if plan is not None and plan.epochs:
        if shares is not None:
            raise ValueError(f"--shares {shares} and the epochs of --ladder {plan.text} exclude each other")
        return schedule(plan.epochs)
    if shares is None and plan is not None and len(modes) in LadderSchedule.SHARES:
        return schedule(epochs, shares=LadderSchedule.SHARES[len(modes)])
    if shares is None:
        given = "--schedule ladder" if plan is None else f"--ladder {plan.text}"
        raise ValueError(
            f"{given} doesn't say for how long, and only ladders of three or four modes have default shares; give "
            f"epochs, as in --ladder {EXAMPLE}, or --shares"
        )
    try:
        values = tuple(float(part) for part in shares.split(","))
    except ValueError:
        raise ValueError(f"--shares {shares!r} is no list of numbers; give one for each mode: 0.5,0.3,0.2") from None
    if len(values) != len(modes):
        alone = plan is None and len(modes) == 2
        hint = "name the modes by --ladder, as 2,4/3,1, or give two" if alone else "give one for each"
        raise ValueError(f"--shares {shares} gives {len(values)} for {len(modes)} modes, {', '.join(modes)}; {hint}")
    return schedule(epochs, shares=values)


def _tuned(
    tuning: Tuning,
    settings: TrainSettings,
    hold_epochs: int | None,
    milestones: tuple[int, ...],
    modes: Sequence[str],
) -> BernoulliSchedule | LadderSchedule:
    if settings.epochs != tuning.epochs:
        raise ValueError(
            f"--epochs {settings.epochs} is not what was tuned, {tuning.epochs}; leave it out, give --p, or tune again"
        )
    held = milestones if hold_epochs else ()
    if isinstance(tuning.schedule, LadderSchedule):
        return LadderSchedule(tuning.schedule.epochs, modes=modes, hold_epochs=hold_epochs or 0, milestones=held)
    chosen = [tuning.schedule.low_probability(epoch) for epoch in range(tuning.epochs)]
    return BernoulliSchedule(chosen, settings.seed, hold_epochs or 0, held)


def ends_full(kind: str, p: str | None, tail: float | None) -> bool:
    """Whether full epochs come last by plan: those of a ladder, of ``--tail``, or of a ``--p`` list that ends in 0."""
    parts = [part.strip().partition("x")[0] for part in (p or "").split(",")]
    falls_to_zero = kind == "bernoulli" and _is_zero(parts[-1]) and not all(map(_is_zero, parts))
    return kind == "ladder" or bool(tail) or falls_to_zero


def _is_zero(text: str) -> bool:
    try:
        return float(text) == 0
    except ValueError:  # ``low_shares`` raises the error in words
        return False


def low_shares(text: str, epochs: int) -> float | list[float]:
    """``0.5``, or a value an epoch; ``0.8x15`` stands for fifteen of them."""
    found: list[tuple[float, int]] = []
    for part in text.split(","):
        number, times, count = part.strip().partition("x")
        try:
            found.append((float(number), int(count) if times else 1))
        except ValueError:
            hint = "give 0.5, or one an epoch: 0.8,0.5,0"
            raise OptionError("p", text, "is no list of numbers", hint) from None
    if "," not in text and "x" not in text:
        return found[0][0]
    if any(count < 1 for _, count in found):
        raise OptionError("p", text, "repeats a number less than once", "give counts of at least 1, as in 0.8x15,0x15")
    total = sum(count for _, count in found)
    if total != epochs:
        run = f"{epochs} epoch{'s' * (epochs != 1)}"
        raise ValueError(f"--p gives {total} values for {run}; give a single number, or {epochs}")
    return [number for number, count in found for _ in range(count)]
