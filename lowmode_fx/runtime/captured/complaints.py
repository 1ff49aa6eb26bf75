"""What is said of steps that are not captured, once each, with the cause and its line."""

from __future__ import annotations

import warnings


class UncapturedWarning(UserWarning):
    """Training steps run kernel by kernel, as in a loop of one's own: right, and slower on a GPU."""


def warn(message: str) -> None:
    """Tell who called the step."""
    warnings.warn(message, UncapturedWarning, stacklevel=5)


def cause_of(error: BaseException) -> str:
    """Of the errors that a failed recording raises one after the other, the first, and the line that raised it."""
    while error.__context__ is not None:
        error = error.__context__
    line, traceback = "", error.__traceback__
    while traceback is not None:
        line = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return f"{' '.join(str(error).split())[:300] or type(error).__name__} ({line})"
