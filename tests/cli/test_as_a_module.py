"""``python -m lowmode_fx`` is the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["report", "--ratio", "none"], 2)])
def test_the_package_runs_as_the_command(arguments: list[str], status: int) -> None:
    command = [sys.executable, "-m", "lowmode_fx", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == status
    assert "Usage: lowmode-fx" in done.stdout if status == 0 else done.stderr.startswith("error: ")
