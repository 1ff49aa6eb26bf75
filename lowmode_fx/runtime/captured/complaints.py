"""Warnings about steps that are not captured, each once, with the cause and its line."""

from __future__ import annotations

import sys
import warnings


class UncapturedWarning(UserWarning):
    """Training steps run kernel by kernel instead of as one replay: the results are the same, but slower on a GPU."""


def warn(message: str) -> None:
    """Warn whoever called the step, or made it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("lowmode_fx.runtime."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UncapturedWarning, stacklevel=level)


def cause_of(error: BaseException) -> str:
    """The first of the errors that a failed recording raises in a chain, and the line that raised it."""
    while error.__context__ is not None:
        error = error.__context__
    line, traceback = "", error.__traceback__
    while traceback is not None:
        line = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return f"{' '.join(str(error).split())[:300] or type(error).__name__} ({line})"
