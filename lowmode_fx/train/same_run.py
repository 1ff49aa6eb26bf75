"""Whether a checkpoint is of the run that is to go on from it, and in what the two differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowmode_fx.train.checkpoint import CheckpointError
from lowmode_fx.train.settings import DEFAULTS
from passes.spelling import setting
from passes.wording import short

#: Parts of a run's identity whose values are a user's options, by the same names.
_OPTIONS = re.compile(r"settings\.|low_mode\.((config|configs\.[^.]+|schedule)\.)?")


def require_same_run(saved: Mapping[str, Any], wanted: Mapping[str, Any], run_folder: Path) -> None:
    """Raise ``CheckpointError`` with the first value in which a checkpoint's run and the wanted one differ."""
    before, now = (_modes(each.get("low_mode")) for each in (saved, wanted))
    difference = f"its modes would be {now}; the run there has {before}" if now != before else ""
    difference = difference or _difference(saved, wanted)
    if difference:
        raise CheckpointError(
            f"cannot resume {str(run_folder)!r}: {difference}; give the same again, or --overwrite or --out another "
            "path"
        )


def _difference(saved: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str:
    """The first difference in words; empty if there is none. Settings that one of them doesn't know have defaults."""
    known = DEFAULTS if prefix == "settings." else {}
    for key in [*wanted, *(key for key in saved if key not in wanted)]:
        before, now = saved.get(key, known.get(key)), wanted.get(key, known.get(key))
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            if found := _difference(before, now, f"{prefix}{key}."):
                return found
        elif before != now:
            name = setting(key) if _OPTIONS.fullmatch(prefix) else f"{prefix}{key}"
            return f"{name} is {short(now)}, the run there has {short(before)}"
    return ""


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
