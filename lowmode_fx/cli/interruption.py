"""What Ctrl-C leaves of a training that it ends at once: nothing, a folder to start in again, or a checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lowmode_fx.cli.command import CommandInterrupted
from lowmode_fx.train.names import CURRENT, PREVIOUS, SUMMARY


@contextmanager
def told_what_is_left(folder: Path) -> Iterator[None]:
    """Inside, Ctrl-C ends the command with a line on what the run has left in its folder."""
    before = _written(folder)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise CommandInterrupted(f"interrupted; {_left(folder, before)}") from interrupt


def resuming(folder: Path) -> str:
    """The command that resumes a run."""
    return f"lowmode-fx train --resume {shlex.quote(str(folder))}"


def _left(folder: Path, before: object) -> str:
    if _written(folder) == before:
        return "nothing was written" if before is None else f"nothing was written, and {folder} is as it was"
    if any((folder / name).is_dir() for name in (CURRENT, PREVIOUS)):
        return f"{resuming(folder)} goes on from the last checkpoint in {folder}"
    return f"{folder} holds no checkpoint yet; {resuming(folder)} starts its run again"


def _written(folder: Path) -> object:
    """When the run in a folder has begun to write there; ``None`` if none has. It writes its summary first."""
    try:
        found = (folder / SUMMARY).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
