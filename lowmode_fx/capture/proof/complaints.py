"""Why there is no proof, and the line of the model's source that causes it."""

from __future__ import annotations

import os
import sys
import traceback
from functools import cache

import torch

_TORCH, _OURS = (os.path.dirname(os.path.abspath(path)) + os.sep for path in (torch.__file__, __file__))
#: A file and a line in it.
Place = tuple[str, int]


class NotProvable(Exception):
    """The model can't be followed without real values. The message says why, in one line."""


def told(place: Place) -> str:
    path, line = place
    return f"line {line} of {os.path.basename(path)}"


def place_of(error: Exception) -> str:
    """The last line of the model's source that led to ``error``, in words; empty if there is none."""
    places = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    places = [place for place in places if _is_source(place[0])]
    return f" ({told(places[-1])})" if places else ""


def running_place() -> Place | None:
    """The innermost running line of the model's source; ``None`` in a backward pass, which the proof starts."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):  # the recorder itself
        frame = frame.f_back  # type: ignore[assignment]
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        if _is_source(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


@cache
def _is_source(filename: str) -> bool:
    """Whether a file is neither torch's, nor generated, nor a part of the proof."""
    return not filename.startswith((_TORCH, _OURS, "<"))
