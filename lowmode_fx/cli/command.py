"""What all commands share: their messages speak of options, and a mistake is one line."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from lowmode_fx.cli.spelling import command_spelling
from lowmode_fx.utils.user_code import OUR_CODE, told
from passes.errors import OptionError
from passes.spelling import spelled

#: Set to see where an error came from.
TRACEBACK = "LOWMODE_FX_TRACEBACK"


class CommandError(Exception):
    """What a command ends with when something is wrong: one line."""


class CommandInterrupted(Exception):
    """Ctrl-C ended a command. typer would end the program without a word."""


def as_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, its messages spelled as its user gives options, its errors one line each."""
    parameters = inspect.signature(command).parameters

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        with spelled(command_spelling(parameters)):
            try:
                for name, value in options.items():
                    if isinstance(value, str) and not value.strip():
                        raise OptionError(name, value, "is empty", "give a value, or leave it out")
                return command(*arguments, **options)
            except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
                raise
            except KeyboardInterrupt as interrupt:
                raise CommandInterrupted from interrupt
            except Exception as error:
                if os.environ.get(TRACEBACK) or _is_our_mistake(error):
                    raise
                raise CommandError(_message(error)) from error

    return run


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
