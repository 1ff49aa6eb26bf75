"""The command, called as its user calls it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Outcome

from lowmode_fx import cli


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """The command, in an empty folder: ``run("train", …)`` → its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lowmode-fx", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        captured = capsys.readouterr()
        return Outcome(code if isinstance(code, int) else int(code is not None), captured.out, captured.err)

    return invoke
