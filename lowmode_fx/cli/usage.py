"""What typer itself refuses of a command line, in one line: the option as it was typed, its value, and what to give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from lowmode_fx.cli.spelling import as_typed, option_value

_SEE = "see --help"


def usage_line(error: typer.TyperException, arguments: Sequence[str]) -> str:
    """The message for what typer refuses. arguments: those of the command line, of which it tells no values."""
    parameter, told = getattr(error, "param", None), getattr(error, "message", "")
    if not isinstance(error, typer.BadParameter) or parameter is None:
        return _with_hint(error.format_message())
    if not told and parameter.name == "model" and "--resume" in arguments:
        run = _value_of("--out", arguments) or "RUN"
        return f"--resume takes the run's folder where no model is given; give lowmode-fx train --resume {run}"
    if not told:  # it is missing
        wanted = _described(parameter) if parameter.param_type_name == "argument" else ""
        return _with_hint(error.format_message(), f"give {wanted}" if wanted else _SEE)
    if parameter.param_type_name != "option":
        return f"{parameter.human_readable_name}: {_with_hint(told)}"
    name = as_typed(parameter.opts, arguments)
    return _about_number(parameter, name, arguments) or f"{name}: {_with_hint(told.removeprefix('Value error, '))}"


def _with_hint(message: str, hint: str = _SEE) -> str:
    """What is refused with what to do; a message that asks back has said that."""
    message = message.strip()
    return message if message.endswith("?") or "; give " in message else f"{message.rstrip('.')}; {hint}"


def _described(parameter: Any) -> str:
    """What an argument is, of the first sentence of its help: ``a timm name, torchvision:NAME, …``."""
    sentence = (parameter.help or "").partition(". ")[0].rstrip(".")
    name, colon, rest = sentence.partition(": ")
    if colon:
        return rest if rest.startswith(("a ", "an ")) else f"a {rest}"
    return f"a {sentence[:1].lower()}{sentence[1:]}" if name else ""


def _about_number(parameter: Any, name: str, arguments: Sequence[str]) -> str:
    """For an option that takes a number: which it was given, and which it takes; empty for other options."""
    kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    text = _value_of(name, arguments)
    if kind not in (int, float) or text is None:
        return ""
    least, most = parameter.min, parameter.max
    wanted = "an int" if kind is int else "a number"
    if least is not None:
        wanted += f" of at least {least}" if most is None else f" from {least} to {most}"
    try:
        kind(text)
    except ValueError:
        return f"{name} {option_value(text)} is no {'integer' if kind is int else 'number'}; give {wanted}"
    return f"{name} {text} is out of range; give {wanted}" if least is not None or most is not None else ""


def _value_of(name: str, arguments: Sequence[str]) -> str | None:
    """The text that follows an option, in its own argument or after a ``=``; the last, as it counts."""
    found = None
    for place, argument in enumerate(arguments):
        typed, equals, value = argument.partition("=")
        if typed == name:
            found = value if equals else next(iter(arguments[place + 1 : place + 2]), None)
    return found
