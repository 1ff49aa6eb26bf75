"""What all commands share: their messages speak of options, and a mistake is one line."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, get_args

import typer
from typer.models import ArgumentInfo, OptionInfo

from lowmode_fx.cli.spelling import as_typed, command_spelling
from lowmode_fx.utils.user_code import OUR_CODE, told
from passes.errors import OptionError
from passes.spelling import spelled

#: Set to see where an error came from.
TRACEBACK = "LOWMODE_FX_TRACEBACK"


class CommandError(Exception):
    """What a command ends with when something is wrong: one line."""


class CommandInterrupted(Exception):
    """Ctrl-C ended a command, with a line on it if there is more to say. typer would end the program without a word."""


def as_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, its messages spelled as its user gives options, its errors one line each."""
    parameters = inspect.signature(command, eval_str=True).parameters

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        with spelled(command_spelling(parameters, _as_typed(parameters))):
            try:
                for name, value in options.items():
                    if isinstance(value, str) and not value.strip():
                        raise OptionError(name, value, "is empty", "give a value, or leave it out")
                return command(*arguments, **options)
            except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError, CommandInterrupted):
                raise
            except KeyboardInterrupt as interrupt:
                raise CommandInterrupted from interrupt
            except Exception as error:
                if os.environ.get(TRACEBACK) or _is_our_mistake(error):
                    raise
                raise CommandError(_message(error)) from error

    return run


def _as_typed(parameters: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    """Of options with several names the one that is on the command line, by parameter; of arguments their own."""
    found = {}
    for name, parameter in parameters.items():
        if any(isinstance(each, ArgumentInfo) for each in get_args(parameter.annotation)[1:]):
            found[name] = name
        # Within Annotated, the first of the names is where a default would stand.
        declared = [(each.default, *(each.param_decls or ())) for each in _options(parameter)]
        names = [each for several in declared for each in several if isinstance(each, str) and "/" not in each]
        if len(names) > 1:
            found[name] = as_typed(names, sys.argv[1:])
    return found


def _options(parameter: inspect.Parameter) -> list[OptionInfo]:
    return [each for each in get_args(parameter.annotation)[1:] if isinstance(each, OptionInfo)]


def _is_our_mistake(error: Exception) -> bool:
    """An assertion that failed in our own code: it shows where."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, AssertionError) and frames[-1].filename.startswith(OUR_CODE)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{str(error.filename)!r}: {error.strerror.lower()}"
    if isinstance(error, ValueError | TypeError | OSError) and str(error):
        return str(error)
    return f"{told(error)}; set {TRACEBACK}=1 to see where"
