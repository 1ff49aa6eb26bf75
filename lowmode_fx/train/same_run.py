"""Whether a checkpoint is of the run that is to go on from it, and in what the two differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lowmode_fx.train.checkpoint import CheckpointError
from lowmode_fx.train.settings import DEFAULTS
from passes.spelling import setting
from passes.wording import short

#: Parts of a run's identity whose values are a user's options, by the same names.
_OPTIONS = re.compile(r"settings\.|low_mode\.((config|configs\.[^.]+|schedule)\.)?")
#: Options that may have a value for each mode.
_BY_MODE = re.compile(r"low_mode\.(low_weight|batch_multiplier)\.")
#: Values that an identity leaves out, by the prefix of their names.
_UNSAID: dict[str, dict[str, Any]] = {"settings.": DEFAULTS, "low_mode.": {"low_weight": 1.0, "batch_multiplier": 1.0}}


class OtherRunError(CheckpointError):
    """A checkpoint is of another run than the wanted one.

    Attributes:
        difference: The first value in which they differ, in words.
        low_mode: The name of what differs in their low modes or schedules, ``""`` for the modes themselves; ``None``
            where something else differs.
    """

    def __init__(self, run_folder: Path, difference: str, low_mode: str | None) -> None:
        again = f"give the same again, or {setting('overwrite', True)} or another {setting('path')}"
        super().__init__(f"cannot resume {str(run_folder)!r}: {difference}; {again}")
        self.difference, self.low_mode = difference, low_mode


def require_same_run(saved: Mapping[str, Any], wanted: Mapping[str, Any], run_folder: Path) -> None:
    """Raise ``OtherRunError`` with the first value in which a checkpoint's run and the wanted one differ."""
    before, now = (_modes(each.get("low_mode")) for each in (saved, wanted))
    if now != before:
        raise OtherRunError(run_folder, f"its modes would be {now}; the run there has {before}", "")
    for path, value, was in _differences(saved, wanted):
        prefix, _, key = path.rpartition(".")
        name, of_low_mode = _name_of(f"{prefix}." if prefix else "", key), path.startswith("low_mode.")
        told = f"{name} is {short(value)}, the run there has {short(was)}"
        raise OtherRunError(run_folder, told, (_by_mode(path) or key) if of_low_mode else None)


def _differences(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Path, wanted value and that of the run there. Values that one of them doesn't say are the usual ones."""
    known = _UNSAID.get(prefix, {})
    for key in [*wanted, *(key for key in saved if key not in wanted)]:
        before, now = saved.get(key, known.get(key)), wanted.get(key, known.get(key))
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            yield f"{prefix}{key}", now, before


def _name_of(prefix: str, key: str) -> str:
    """A value of an identity in a user's words."""
    if option := _by_mode(prefix):
        return f"{setting(option)} of {key}-mode"
    return setting(key) if _OPTIONS.fullmatch(prefix) or prefix + key == "weights" else f"{prefix}{key}"


def _by_mode(path: str) -> str:
    """The option that has a value for each mode, if ``path`` leads to one of these values."""
    found = _BY_MODE.match(path)
    return found[1] if found else ""


def _modes(low_mode: Mapping[str, Any] | None) -> str:
    """The modes of a run, with their epochs where a ladder gives them: ``r = 2 for 3 epochs, full-mode for 1``."""
    if low_mode is None:
        return "full-mode alone"
    schedule = low_mode.get("schedule")
    schedule = schedule if isinstance(schedule, Mapping) else {}
    configs = low_mode["configs"] if "configs" in low_mode else {"low": low_mode.get("config")}
    if schedule.get("kind") != "ladder":
        names = [f"{name}-mode" for name in configs]
        return f"{', '.join(names)} and full-mode by a schedule of kind {schedule.get('kind')!r}"
    names = [*(_name(config) for config in configs.values()), "full-mode"]
    epochs = schedule.get("epochs")
    if epochs is None or len(epochs) != len(names):
        return ", ".join(names)
    first, *others = zip(names, epochs, strict=True)
    head = f"{first[0]} for {first[1]} epoch{'s' * (first[1] != 1)}"
    return ", ".join([head, *(f"{name} for {count}" for name, count in others)])


def _name(config: Any) -> str:
    if not isinstance(config, Mapping) or not config.get("downsample_input", True):
        return "whole images"
    return f"r = {config.get('ratio')}"
