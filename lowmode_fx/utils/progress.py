"""What long work says meanwhile: a bar on a terminal, gone at the end; elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

Item = TypeVar("Item")
#: ``tell(stage, share)``: what is being done, and how much of all the work is done, in [0, 1].
Tell = Callable[[str, float], None]

#: A log is told that often how far a stage is.
EVERY_SECONDS = 5.0
#: Columns of a terminal: of the bar itself, and of all but the stage's name (bar, percentage, time, the gaps between).
_BAR, _REST = 16, 16 + 4 + 8 + 3


@contextmanager
def progress(console: Console | None = None, *, lines: bool = True) -> Iterator[Tell]:
    """A function that tells how far the work is.

    console: standard error unless given. lines: ``False`` where a log that is piped has lines of its own.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _line_a_stage(console) if lines else lambda stage, share: None
        return
    with _bar(console) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda stage, share: bar.update(task, completed=share, description=stage)


def track(
    items: Iterable[Item], *, total: int, what: str, size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """The items, as ``progress`` tells of them. total: how much they are together, above 0; size: how much one is."""
    done = 0
    with progress() as tell:
        tell(what, 0.0)
        for item in items:
            yield item
            done += size(item)
            tell(what, done / total)


def _line_a_stage(console: Console) -> Tell:
    last, said = "", 0.0

    def tell(stage: str, share: float) -> None:
        nonlocal last, said
        now = time.monotonic()
        if stage != last or now >= said + EVERY_SECONDS:
            how_far = " …" if stage != last else f": {share:.0%} …"
            last, said = stage, now
            console.print(f"{stage}{how_far}", soft_wrap=True, markup=False, highlight=False)

    return tell


def _bar(console: Console) -> Progress:
    """A bar of one line, of 60 columns too: a name that is too long for it is cut."""
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(1, console.width - _REST))
    return Progress(
        BarColumn(bar_width=_BAR),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False, table_column=name),
        console=console,
        transient=True,
    )
