"""Random command lines and folders: outcomes are counted, faults are reported, and a run continues."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bench import fuzz_cli

Fuzz = Callable[[random.Random, int, dict[str, Any], Callable[[], None]], None]


@pytest.mark.parametrize(
    ("fuzz", "what", "every"), [(fuzz_cli.fuzz_lines, "line", 50), (fuzz_cli.fuzz_folders, "folder", 10)]
)
def test_outcomes_are_counted_and_a_run_goes_on(
    fuzz: Fuzz, what: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def run(line: Sequence[str], encoding: str = "utf-8") -> tuple[str, str]:
        seen.append(list(line))
        return ("hang", "x" * 500) if len(seen) == 3 else ("result", "")

    monkeypatch.setattr(fuzz_cli, "run", run)
    monkeypatch.setattr(fuzz_cli, "draw_folder", lambda rng, root: [str(rng.random())])
    monkeypatch.setattr(fuzz_cli.shutil, "copytree", lambda *_: None)
    monkeypatch.setattr(fuzz_cli, "finished_run", lambda: None)
    kept: list[int] = []
    rows: dict[str, Any] = {}
    fuzz(random.Random(0), every + 2, rows, lambda: kept.append(sum(rows["counts"].values())))
    assert kept == [every, every + 2]
    assert rows["counts"] == {"result": every + 1, "hang": 1}
    (fault,) = rows["faults"]
    assert list(fault) == [what, "outcome", "words"] and fault["outcome"] == "hang" and len(fault["words"]) == 400
    first = seen[:]
    fuzz(random.Random(0), every + 5, rows, lambda: kept.append(sum(rows["counts"].values())))
    assert kept[2:] == [every + 5] and len(seen) == len(first) + 3, "what was tried is not tried again"
    if what == "line":
        assert fault["line"] == first[2]


def test_a_command_hangs_by_the_cpu_time_it_takes_or_by_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_cli, "CPU_SECONDS", 0.2)
    monkeypatch.setattr(fuzz_cli, "SECONDS", 60)

    def busy() -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz_cli.cli, "main", busy)
    assert fuzz_cli.run([]) == ("hang", "more than 0.2 s of CPU time")
    monkeypatch.setattr(fuzz_cli.cli, "main", lambda: time.sleep(0.5))
    assert fuzz_cli.run([]) == ("result", ""), "waiting takes no CPU time"
    monkeypatch.setattr(fuzz_cli, "SECONDS", 0.1)
    assert fuzz_cli.run([]) == ("hang", "more than 0.1 s")
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and not any(signal.getitimer(signal.ITIMER_PROF))
