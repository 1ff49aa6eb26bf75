"""User code that is called by name: its errors become one line, with the place in the user's code."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from passes.wording import first_line

OUR_CODE = tuple(str(Path(__file__).parents[2] / package) for package in ("lowmode_fx", "passes"))
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


@contextmanager
def user_code(what: str, hint: str = "") -> Iterator[None]:
    """Turn whatever is raised inside into a ``ValueError`` of one line.

    ``what``: what failed, for the message, which also gives the last place in the user's own files, if there is one.
    ``hint``: what to do.
    """
    then = f"; {hint}" if hint else ""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what} ({told(error)}){then}") from error
    except SystemExit as error:  # a module that exits when it is imported
        raise ValueError(f"{what} (it calls sys.exit({error.code!r}){_where(error)}){then}") from error


def told(error: BaseException) -> str:
    """Type, first line and place of an error: ``KeyError: 'depth', at nets.py:12 in build``."""
    said = first_line(error) if isinstance(error, Exception) else ""
    name = type(error).__name__
    return f"{name if said in ('', name) else f'{name}: {said}'}{_where(error)}"


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    if not frames:
        return ""
    last = frames[-1]
    return f", at {Path(last.filename).name}:{last.lineno} in {last.name}"


def _is_users(filename: str) -> bool:
    return not filename.startswith(("<", *OUR_CODE, *_LIBRARIES))
