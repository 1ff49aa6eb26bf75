"""From measurements to a ``Tuning``: the modes and their epochs, and the reasons in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lowmode_fx.lowering.rung_names import rung_names
from lowmode_fx.runtime.schedules import BernoulliSchedule, LadderSchedule
from lowmode_fx.tuning.candidate import Candidate
from lowmode_fx.tuning.growth import times
from lowmode_fx.tuning.ladder_plan import LEAST_SAVING, RAMP_TAIL, Chosen, choose, ramp
from lowmode_fx.tuning.result import Tuning
from lowmode_fx.tuning.search import Search
from lowmode_fx.utils.tables import with_error
from passes.spelling import setting

#: A part of the run by which whole epochs may lengthen a plan without a word.
_ROUNDING = 0.1


@dataclass(frozen=True)
class Wanted:
    """The requested plan: the number of full epochs to match, the number of modes, and the share of time."""

    epochs: int
    tail: float
    modes: int
    time_budget: float
    seed: int


def planned(search: Search, wanted: Wanted) -> Chosen:
    """The plan from the candidates that have had trial runs."""
    return choose(_tried(search), wanted.epochs, wanted.tail, wanted.modes, wanted.time_budget)


def decide(search: Search, wanted: Wanted, reasons: list[str], seen: float) -> Tuning:
    """The plan from the candidates with trial runs. ``reasons``: so far; ``seen``: the longer trial run's share."""
    epochs, seed = wanted.epochs, wanted.seed
    chosen = planned(search, wanted)
    order = sorted(search.candidates, key=lambda each: (not each.trials, each.plan.time))
    reasons += _cut_short(search)
    for each in chosen.candidates:
        runs = len(each.trials)
        what = "a low step costs" if times(each.growth) == 1 else "on as many images, low steps cost"
        reasons.append(
            f"{each.name}: {what} {with_error(each.cost, each.cost_error)} of a full one"
            f"{', both compiled' if each.compiled else ''}; in "
            f"{f'{runs} trial runs' if runs > 1 else 'a trial run'} its gain was {each.trial_gains[0]:.2f} of one over "
            f"{seen / 2:.0%} of the run and {with_error(each.trial_gains[-1], each.trial_error)} over {seen:.0%}, its "
            f"gradients multiplied by {each.weight:g}"
        )
    reasons += search.growth_told
    reasons += dict.fromkeys(f"note: {note}" for each in chosen.candidates for note in each.notes)
    configs = tuple(each.config for each in chosen.candidates)
    whole = chosen.whole_epochs()
    if not sum(whole):
        given = setting("time_budget", wanted.time_budget)
        raise ValueError(f"{given} leaves no whole epoch of {epochs}; give a larger share, or more {setting('epochs')}")
    predicted = chosen.whole_time / epochs
    measured = partial(
        Tuning, candidates=tuple(order), refused=tuple(search.refused.items()), config=configs[0], more=configs[1:]
    )
    if predicted > 1 or (predicted > 1 - LEAST_SAVING and wanted.time_budget == 1):
        reasons.append(
            f"low steps would save {max(0.0, 1 - predicted):.0%} of the time in whole epochs, which is noise: train in "
            "full-mode (p = 0)"
        )
        never = BernoulliSchedule(0.0, seed)
        return measured(schedule=never, low_weight=1.0, epochs=epochs, time=1.0, more=(), reasons=tuple(reasons))
    reasons += _plan_in_words(chosen, whole, predicted, wanted, ramp(_tried(search), epochs, wanted.tail))
    schedule: BernoulliSchedule | LadderSchedule
    if len(configs) == 1:
        schedule = BernoulliSchedule([1.0] * whole[0] + [0.0] * whole[1], seed)
    else:
        schedule = LadderSchedule(whole)
    names = [str(mode) for mode, _ in rung_names(configs)]
    return measured(
        schedule=schedule,
        low_weight=_by_mode(names, [each.weight for each in chosen.candidates]),
        batch_multiplier=_by_mode(names, [times(each.growth) for each in chosen.candidates]),
        lr_rule=search.lr_rule,
        epochs=sum(whole),
        time=predicted,
        reasons=tuple(reasons),
    )


def _by_mode(names: Sequence[str], values: Sequence[float]) -> float | dict[str, float]:
    """One number for a single low mode, and for several if it is 1; else one for each."""
    return values[0] if len(values) == 1 or set(values) == {1.0} else dict(zip(names, values, strict=True))


def _tried(search: Search) -> list[Candidate]:
    return [each for each in search.candidates if each.trials]


def _cut_short(search: Search) -> list[str]:
    """What there was no time for, so that nobody takes the advice for surer than it is."""
    families = sum(not choice.family for choice in search.left_out)
    if families:
        return [
            f"the advice rests on {search.looked_at} of {search.looked_at + families} candidates: the time was up "
            f"before the others; give more {setting('seconds')}"
        ]
    if search.left_out:
        part = f"parts of {search.left_out[0].family!r}"
        return [f"the time was up before all {part} were tried; give more {setting('seconds')} to see if they pay"]
    return []


def _plan_in_words(
    chosen: Chosen, whole: Sequence[int], predicted: float, wanted: Wanted, plain: Chosen | None
) -> list[str]:
    used = [(count, each) for count, each in zip(whole, chosen.candidates, strict=False) if count]
    low = " and ".join(f"{count} {_epochs(count)} of {each.name}" for count, each in used)
    low = f"{whole[0]} low {_epochs(whole[0])}" if len(whole) == 2 else low
    tail = f"{whole[-1]} full {_epochs(whole[-1])}"
    words = [
        f"{low} {'replaces' if sum(whole[:-1]) == 1 else 'replace'} "
        f"{_of_full(chosen.replaced)}, {tail} at the end: "
        f"about {predicted:.0%} of the time of {wanted.epochs} full {_epochs(wanted.epochs)}"
    ]
    if predicted > wanted.time_budget + 1e-9:
        words.append(
            f"this plan takes {predicted:.1%} of the time, for it has whole epochs, more than "
            f"{setting('time_budget', wanted.time_budget)}; give more {setting('epochs')} or a larger budget"
        )
    elif chosen.reached < wanted.epochs:
        words.append(
            f"in {wanted.time_budget:.0%} of the time a run makes the progress of {_number(chosen.reached)} of "
            f"{wanted.epochs} full epochs"
        )
    parts = chosen.time / wanted.epochs
    if predicted > parts + _ROUNDING:
        words.append(f"in parts of epochs it would take {parts:.0%}: more {setting('epochs')} come nearer to that")
    if chosen.trusted:
        words.append(
            "this is a plain ramp: what another plan would save by these trial runs is less than a tenth of the run, "
            "which whole runs have not borne out"
        )
    elif chosen.reached == wanted.epochs and wanted.modes > 2 and plain is not None and wanted.tail <= RAMP_TAIL:
        share = plain.whole_time / wanted.epochs
        words.append(f"the plain ramp, r = 2, 4/3 and 1 for a half, three tenths and a fifth, would take {share:.0%}")
    return words


def no_progress(first: float, loss: float, steps: int) -> str:
    """The warning for a short full run whose loss, from ``first`` on, did not fall."""
    return (
        f"warning: the short full run did not learn (loss {first:.3g}, after {steps} steps {loss:.3g}), so what "
        f"follows is noise; give another {setting('lr')}, or more {setting('epochs')}"
    )


def _of_full(epochs: float) -> str:
    """Full epochs that others replace: ``1.4 full ones``, ``0.03 of a full one``."""
    return f"{_number(epochs)} {'full ones' if epochs >= 1 else 'of a full one'}"


def _number(epochs: float) -> str:
    """With a digit after the point, or as many as it takes not to be 0."""
    return f"{epochs:.1f}" if epochs >= 1 else f"{epochs:.2g}"


def _epochs(count: int) -> str:
    return "epoch" if count == 1 else "epochs"
