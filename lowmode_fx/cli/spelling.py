"""How messages spell arguments on a command line: ``--ratio 4/3`` for ``ratio="4/3"``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passes.spelling import NO_VALUE, Spelling, as_argument

#: Arguments whose options have another name.
RENAMED = {"every": "measure_every", "only": "on", "path": "out"}
#: Options with a value for each side of the images, as ``1x4/3``; others list theirs with commas.
ONE_A_SIDE = ("ratio", "kernel_ratio")
#: What serves instead of an option that a command has not, or that has another name: argument and value → option.
_INSTEAD: dict[tuple[str, Any], str] = {("downsample_input", False): "whole_images"}
_TUNE: dict[tuple[str, Any], str] = {("downsample_input", False): "--ratios 1", ("kernel_ratio", 1): "--ratios 2"}


def option_name(parameter: str) -> str:
    """``--lr-schedule`` for ``lr_schedule``."""
    return f"--{parameter.replace('_', '-')}"


def as_typed(names: Sequence[str], arguments: Sequence[str]) -> str:
    """The one of an option's ``names`` that is among a command's ``arguments``, the last of several; else the first."""
    typed = [argument.partition("=")[0] for argument in arguments]
    return next((name for name in reversed(typed) if name in names), names[0])


@dataclass(frozen=True)
class CommandSpelling:
    """The spelling of a command with these parameters; what is none of its options stays as in Python.

    names: those of options that are typed otherwise than after their parameters, by parameter.
    """

    parameters: frozenset[str]
    names: Mapping[str, str]

    def __call__(self, argument: str, value: Any) -> str:
        name = argument.partition("[")[0]  # milestones[1], of a list that is given whole
        name = RENAMED.get(name, name)
        plain = value if value is NO_VALUE or isinstance(value, str | int | float | bool | None) else NO_VALUE
        if plain is not NO_VALUE:
            switch = _INSTEAD.get((name, plain))
            if switch is not None and switch in self.parameters:
                return option_name(switch)
            if name not in self.parameters and "ratios" in self.parameters and (name, plain) in _TUNE:
                return _TUNE[name, plain]
        if name not in self.parameters:
            return as_argument(argument, value)
        if isinstance(value, bool):
            return option_name(name if value else f"no_{name}")
        option = self.names.get(name) or option_name(name)
        if value is NO_VALUE:
            return option
        return f"{option} {option_value(value, 'x' if name in ONE_A_SIDE else ',')}"


def command_spelling(parameters: Collection[str], names: Mapping[str, str] | None = None) -> Spelling:
    """The spelling of a command's messages; ``names``: of options that are typed otherwise than after parameters."""
    return CommandSpelling(frozenset(parameters), names or {})


def option_value(value: Any, between: str = ",") -> str:
    """A value as it is typed: text in quotes where it isn't a number, of a list what stands ``between`` its parts."""
    if isinstance(value, tuple | list):
        return between.join(str(each) for each in value)
    if isinstance(value, str):
        return value if value[:1].isdigit() else repr(value)
    return repr(str(value)) if isinstance(value, Path) else str(value)
