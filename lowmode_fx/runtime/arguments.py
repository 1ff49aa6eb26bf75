"""Checks of ``LowModeModel``'s arguments: the ladder, a schedule that fits it, and the weights of its modes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from lowmode_fx.lowering.blocks import find_blocks, kind_of, named_blocks
from lowmode_fx.lowering.ladder import Ladder, as_ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.sharded import is_sharded
from lowmode_fx.runtime.schedules import MeasuringSchedule, StatefulSchedule
from lowmode_fx.utils.validation import as_number

#: Whether to compile the modes, and what of the model: all, its blocks, or the modules that globs name.
Compile = bool | Literal["blocks"] | Sequence[str]


def blocks_to_compile(model: nn.Module, compile: Compile) -> tuple[str, ...]:
    """Paths of the modules that are compiled one by one; none if the model is compiled as a whole, or not at all.

    Raises ``ValueError`` for another word than ``"blocks"``, and for a glob that matches nothing.
    """
    if isinstance(compile, bool):
        return ()
    if isinstance(compile, str):
        if compile != "blocks":
            raise ValueError(f"compile={compile!r} is unknown; give True, False, 'blocks', or globs over module names")
        blocks = find_blocks(model)
        if not blocks:
            warnings.warn(
                f"compile='blocks': {type(model).__name__} has no module with layers in it to compile by itself, so it "
                "is compiled as a whole; name the modules by globs, or give compile=True",
                stacklevel=4,
            )
        elif _all_differ(model, blocks) and not is_sharded(model):
            warnings.warn(
                f"compile='blocks': no two of the {len(blocks)} blocks of {type(model).__name__} are equal, so "
                "compiling them one by one saves nothing; give compile=True, or their names if they will be sharded",
                stacklevel=4,
            )
        return blocks
    return named_blocks(model, compile)


def _all_differ(model: nn.Module, blocks: Sequence[str]) -> bool:
    return len({kind_of(model.get_submodule(path)) for path in blocks}) == len(blocks)


def check_arguments(ladder: Any, schedule: Any, downsample_on: Any) -> None:
    """Raise ``TypeError`` or ``ValueError`` if the ladder, the schedule or ``downsample_on`` is invalid."""
    as_ladder(ladder)
    if isinstance(schedule, type):
        raise TypeError(
            f"schedule is the class {schedule.__name__}; give an object of it, as BernoulliSchedule(0.5) is one"
        )
    if not callable(getattr(schedule, "mode", None)):
        kind = type(schedule).__name__
        raise TypeError(f"schedule is of type {kind}; give one with mode(step, epoch), such as BernoulliSchedule(0.5)")
    count = getattr(schedule, "count", None)
    if isinstance(count, int) and count != len(ladder.modes):
        raise ValueError(
            f"schedule {type(schedule).__name__} is for {count} modes, but the ladder has {len(ladder.modes)}: "
            f"{', '.join(map(str, ladder.modes))}; give one share, number of epochs or probability per mode"
        )
    if isinstance(schedule, MeasuringSchedule) and len(ladder.rungs) > 1:
        raise ValueError(
            f"schedule {type(schedule).__name__} measures one low mode, but the ladder has {len(ladder.rungs)}: "
            f"{', '.join(map(str, ladder.modes[:-1]))}; give a pair, or another schedule"
        )
    if downsample_on not in ("device", "host"):
        raise ValueError(f"downsample_on={downsample_on!r} is unknown; give 'device' or 'host'")
    if downsample_on == "host" and not any(rung.config.downsample_input for rung in ladder.rungs):
        raise ValueError(
            "downsample_on='host' has no effect: images stay at full size (downsample_input=False); give 'device'"
        )
    if downsample_on == "host" and isinstance(schedule, StatefulSchedule):
        raise ValueError(
            "downsample_on='host' needs modes before this schedule decides them, and leaves no full-size "
            f"batches to measure; use downsample_on='device' with {type(schedule).__name__}"
        )


def read_low_weights(ladder: Ladder, low_weight: float | Mapping[str, float]) -> dict[Mode, float]:
    """Return the weight of each low mode's gradients.

    Raises ``ValueError`` for a mode that the ladder does not have, and for a weight that is not above 0; ``TypeError``
    for one that is no number.
    """
    if not isinstance(low_weight, Mapping):
        weight = as_number("low_weight", low_weight, above=0)
        return dict.fromkeys(ladder.modes[:-1], weight)
    weights: dict[Mode, float] = {}
    for name, given in low_weight.items():
        try:
            mode = ladder.rung(Mode(name)).mode
        except ValueError as error:
            raise ValueError(f"low_weight: {error}") from error
        weights[mode] = as_number(f"low_weight[{str(name)!r}]", given, above=0)
    return weights
