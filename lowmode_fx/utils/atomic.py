"""Atomic files: written next to their place, synced to the disk, then renamed into it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file next to ``path``, then replace ``path`` by it.

    The old file stays if anything fails. Raises ``OSError`` (a full disk, no permission), which names ``path``.
    """
    temporary = path.with_name(
        f".{path.stem}.{os.getpid()}{path.suffix}"
    )  # matplotlib chooses the format by the suffix
    try:
        write(temporary)
        sync_file(temporary)
        os.replace(temporary, path)
    except OSError as error:  # the message must name the requested file, not the temporary one
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: _write_utf8(temporary, text))


def _write_utf8(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the renames in a folder durable. Systems that can't open a folder (Windows) skip this."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems can't sync a folder
    finally:
        os.close(descriptor)
