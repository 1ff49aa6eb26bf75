"""What all commands share: their messages speak of options, and a mistake is one line."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from lowmode_fx.cli.spelling import command_spelling
from passes.errors import OptionError
from passes.spelling import spelled

#: Set to see where an error came from.
TRACEBACK = "LOWMODE_FX_TRACEBACK"


class CommandError(Exception):
    """What a command ends with when something is wrong: one line."""


def as_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, its messages spelled as its user gives options, its errors one line each.

    An assertion that fails is a mistake of ours, and shows where.
    """
    parameters = inspect.signature(command).parameters

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        with spelled(command_spelling(parameters)):
            try:
                for name, value in options.items():
                    if isinstance(value, str) and not value.strip():
                        raise OptionError(name, value, "is empty", "give a value, or leave it out")
                return command(*arguments, **options)
            except AssertionError:
                raise
            except (ValueError, TypeError, OSError) as error:
                if os.environ.get(TRACEBACK):
                    raise
                raise CommandError(_message(error)) from error
            except (RuntimeError, MemoryError, ArithmeticError, LookupError, AttributeError, ImportError) as error:
                if os.environ.get(TRACEBACK):
                    raise
                from lowmode_fx.utils.user_code import told

                raise CommandError(f"{told(error)}; set {TRACEBACK}=1 to see where") from error

    return run


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{str(error.filename)!r}: {error.strerror.lower()}"
    return str(error) or type(error).__name__
