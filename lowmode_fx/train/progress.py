"""What a run prints while it works: bars on a terminal, one plain line an epoch when the output is piped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console

from lowmode_fx.utils.progress import Tell, progress

if TYPE_CHECKING:
    from lowmode_fx.train.records import EpochRecord


class Reporter:
    """Prints a run's epochs. As a context manager it shows a bar over the steps when ``console`` is a terminal."""

    def __init__(
        self, label: str, epochs: int, steps: int, console: Console | None = None, quiet: bool = False
    ) -> None:
        self.label = label
        self.epochs = epochs
        self.steps = steps
        self.console = console or Console()
        self.quiet = quiet
        self._bar = ExitStack()
        self._tell: Tell | None = None
        self._closed = False
        self._on_closed: Callable[[], None] = lambda: None

    def __enter__(self) -> Reporter:
        if self.console.is_terminal and not self.quiet:
            self._tell = self._bar.enter_context(progress(self.console))
            self._tell(self.label, 0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tell = None
        self._bar.close()

    def say(self, text: str) -> None:
        if self.quiet:
            return
        try:
            # Not wrapped, so that a line stays one line in a log, and no markup, for names in brackets.
            self.console.print(f"{self.label}: {text}", soft_wrap=True, markup=False, highlight=False)
        except (BrokenPipeError, SystemExit):  # rich would end the program where the reader is gone
            self.quiet = self._closed = True
            self._on_closed()

    def when_closed(self, call: Callable[[], None]) -> None:
        """``call`` once the reader of the output is gone; at once if it is gone already."""
        self._on_closed = call
        if self._closed:
            call()

    def step(self, epoch: int, step: int) -> None:
        """After step ``step`` (from 0) of ``epoch``; kept cheap, for it runs inside the timed part."""
        if self._tell is not None:
            share = (epoch * self.steps + step + 1) / (self.epochs * self.steps)
            self._tell(f"{self.label}: epoch {epoch + 1}/{self.epochs}", share)

    def epoch(self, record: EpochRecord) -> None:
        self.say(
            f"epoch {record.epoch + 1:>{len(str(self.epochs))}}/{self.epochs}  loss {record.train_loss:.4f}  "
            f"validation {record.val_accuracy:6.2%}  {_steps(record)}  lr {record.lr:.2g}  "
            f"{record.seconds:.1f} s (training {record.total_seconds:.1f} s)"
        )


def _steps(record: EpochRecord) -> str:
    """Of two modes the low steps of all, of more those of each that ran."""
    total = record.low_steps + record.full_steps
    if len(record.steps) <= 2:
        return f"low steps {record.low_steps}/{total}"
    return f"steps {', '.join(f'{mode} {count}' for mode, count in record.steps.items() if count)}"
