"""Signals as a terminal hands them on, whoever started the tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from lowmode_fx.train.interrupts import SIGNALS


@pytest.fixture(autouse=True)
def signals_are_heard() -> Iterator[None]:
    """A process in the background, or under nohup, ignores some, and so would a run."""
    usual = {number: signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL for number in SIGNALS}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
