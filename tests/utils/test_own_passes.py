"""Another top-level module named ``passes`` comes first: importing ``lowmode_fx`` says so in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def last_line(*places: Path, code: str = "import lowmode_fx") -> str:
    """The last line that Python prints for the code, with these places first on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*places, ROOT)))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=places[-1], env=environment)
    return (done.stderr or done.stdout).strip().splitlines()[-1]


@pytest.mark.parametrize("file", ["passes.py", "passes/__init__.py"])
def test_a_module_of_the_same_name_is_reported_with_its_place(file: str, tmp_path: Path) -> None:
    other = tmp_path / file
    other.parent.mkdir(exist_ok=True)
    other.write_text("answer = 42\n")
    assert last_line(tmp_path) == (
        f"ImportError: another module named passes was found: {other}; rename it, or put {ROOT}, where lowmode_fx has "
        "its own, before it on sys.path"
    )


def test_our_own_is_imported() -> None:
    assert last_line(ROOT, code="import lowmode_fx, passes; print(passes.__file__)") == str(ROOT / "passes/__init__.py")


def test_what_the_own_package_lacks_is_reported_as_it_is(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; import lowmode_fx; lowmode_fx.LowModeConfig"
    assert "passes" not in last_line(tmp_path, code=code)


def test_a_missing_package_is_reported(tmp_path: Path) -> None:
    line = last_line(tmp_path, code="import sys; sys.modules['passes'] = None; import lowmode_fx")
    assert line == (
        f"ImportError: the package passes, which belongs to lowmode_fx, is missing from {ROOT}; reinstall lowmode_fx"
    )
