"""Progress of long work: a bar on a terminal, removed at the end; otherwise a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

Item = TypeVar("Item")
#: ``tell(stage, share)``: the current stage, and the share of all work that is done, in [0, 1].
Tell = Callable[[str, float], None]

#: Seconds between two lines of a log about one stage.
EVERY_SECONDS = 5.0
#: Columns on a terminal: of the bar, and of everything but the stage's name (bar, percentage, time, gaps).
_BAR, _REST = 16, 16 + 4 + 8 + 3


@contextmanager
def progress(console: Console | None = None, *, lines: bool = True) -> Iterator[Tell]:
    """A callback that reports progress.

    ``console``: standard error by default. ``lines``: ``False`` if a piped log has its own lines.
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
    """The items, with their progress reported; ``total``: the sum of their sizes, above 0; ``size``: of one item."""
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
    """A bar of one line, also at 60 columns: a stage's name that is too long is cut."""
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(1, console.width - _REST))
    return Progress(
        BarColumn(bar_width=_BAR),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False, table_column=name),
        console=console,
        transient=True,
    )
