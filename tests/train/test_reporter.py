"""What a run prints, on a terminal and piped."""

from __future__ import annotations

import io
import re

from rich.console import Console

from lowmode_fx.train.progress import Reporter


def test_a_terminal_gets_a_bar_with_the_epoch_below_the_lines() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    with Reporter("low-mode", 3, 4, console) as reporter:
        reporter.say("compiled")
        for step in range(4):
            reporter.step(1, step)
    output = console.file.getvalue()
    assert "low-mode: compiled\n" in output
    assert re.search(r"━\S* +67% \S+ low-mode: epoch 2/3", output)


def test_a_log_and_a_quiet_run_get_no_bar() -> None:
    for quiet, said in ((False, "low-mode: compiled\n"), (True, "")):
        console = Console(file=io.StringIO(), force_terminal=quiet, width=60)
        with Reporter("low-mode", 3, 4, console, quiet) as reporter:
            reporter.say("compiled")
            reporter.step(0, 0)
        assert console.file.getvalue() == said
