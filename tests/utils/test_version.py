"""The version: of the clone that runs, else of the package that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from pages import ROOT

import lowmode_fx
from lowmode_fx.utils.version import read_version

OWN = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_a_clones_own_version_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lowmode_fx.__version__ == OWN
    monkeypatch.setattr(metadata, "version", lambda name: {"lowmode-fx": "7.1"}[name])
    assert read_version(tmp_path) == "7.1"
    for text in ('[project]\nname = "other"\nversion = "3.0"\n', "[tool.ruff]\n", "[project\n"):
        (tmp_path / "pyproject.toml").write_text(text)
        assert read_version(tmp_path) == "7.1", text
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "lowmode-fx"\nversion = "8.2"\n')
    assert read_version(tmp_path) == "8.2"


def test_copied_packages_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", fails)
    assert read_version(tmp_path) == "0+unknown"


def test_it_is_there_without_torch() -> None:
    code = "import json, sys, lowmode_fx; print(json.dumps([lowmode_fx.__version__, 'torch' in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert json.loads(done.stdout) == [OWN, False]


def test_the_command_prints_it() -> None:
    command = [sys.executable, "-m", "lowmode_fx", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lowmode-fx {OWN}\n", "")
