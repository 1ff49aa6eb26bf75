"""The batches of short runs: those that are measured on, and those that are trained on, pass after pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized

from lowmode_fx.tuning.batches import Batch, check_no_dataset


def first_batches(batches: Iterable[Batch], count: int) -> list[Batch]:
    """The first of a loader.

    Raises ``ValueError`` for fewer than two, and for an iterator that serves only once; ``TypeError`` for a data set.
    """
    check_no_dataset("loader", batches)
    if iter(batches) is batches:
        raise ValueError("batches is an iterator, which can be used only once; give a list or a DataLoader")
    first = list(itertools.islice(batches, count))
    if len(first) < 2:
        raise ValueError(f"loader has {len(first)} batches; give at least two, of your training batch size")
    return first


def run_batches(batches: Iterable[Batch], kept: int, steps: int, repeat: int) -> Iterator[Batch]:
    """Endless batches of a run that takes about ``steps``; the first ``kept`` are measured on, if there are others.

    ``repeat``: 0 for the first run, others begin later in the loader.
    """
    return itertools.islice(endless(batches, kept), later(batches, kept, steps, repeat), None)


def later(batches: Iterable[Batch], kept: int, steps: int, repeat: int) -> int:
    """Batches to skip, so that the first repeats of ``steps`` steps begin with different ones.

    They follow each other; if a loader has too few for that, each begins a third of its batches later.
    """
    if isinstance(batches, Sized):
        trained_on = len(batches) - kept if len(batches) > kept else len(batches)
        return min(repeat * steps, repeat * trained_on // 3)
    return repeat * steps


def endless(batches: Iterable[Batch], skipped: int) -> Iterator[Batch]:
    """Pass after pass, each without its first ``skipped`` batches, unless there are no others."""
    count = sum(1 for _ in itertools.islice(batches, skipped + 1))
    while True:
        yield from itertools.islice(batches, skipped if count > skipped else 0, None)
