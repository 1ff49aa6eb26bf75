"""Restorers: calls that restore a state, made before it changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

Restorer = Callable[[], object]


@contextlib.contextmanager
def restoring(restorers: Iterable[Restorer]) -> Iterator[None]:
    """Make the restorers before the block, and call them after it, also after an error."""
    made = list(restorers)
    try:
        yield
    finally:
        restore_all(made)


def restore_all(restorers: Iterable[Restorer]) -> None:
    """Call each, even if one fails; then raise the first error."""
    errors = []
    for restore in restorers:
        try:
            restore()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
