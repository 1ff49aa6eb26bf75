"""Signals while training: the first asks for a checkpoint and an end, the second ends at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

#: Ctrl-C, the end that a scheduler or a shell asks for, and a terminal that is closed.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """Inside the ``with``, ``received`` is the number of the first signal that came, or 0.

    A signal that the process was started to ignore, as ``nohup`` has it, stays ignored.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        # Python hands signals to the main thread only; elsewhere the caller's own handling stands.
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def output_closed(self) -> None:
        """Nobody reads what is printed: the end is asked for as by a signal."""
        self.received = self.received or getattr(signal, "SIGPIPE", signal.SIGTERM)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
