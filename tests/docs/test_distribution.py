"""The wheel and the sdist: built, installed where nothing else of the project is, and imported."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from pages import ROOT

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints; its complaints where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of what git has of the working tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = run("git", "ls-files", "--", "lowmode_fx", "passes", "pyproject.toml", "README.md", "LICENSE", cwd=ROOT)
    for file in files.splitlines():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_bytes((ROOT / file).read_bytes())
    environment = out / "environment"
    run(sys.executable, "-m", "venv", environment, cwd=out)
    python = environment / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "build", cwd=out)
    run(python, "-m", "build", "--outdir", out, source, cwd=out)  # the wheel is made of the sdist
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_both_hold_the_packages_and_their_marks(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"lowmode_fx/py.typed", "passes/py.typed", "lowmode_fx/__main__.py"} <= names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"lowmode_fx", "passes"}
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("lowmode_fx", "passes")
        for path in (ROOT / package).rglob("*.py")
    }
    assert sources <= names
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert sources | {"README.md", "LICENSE", "pyproject.toml", "passes/py.typed"} <= inside


def test_the_wheel_is_imported_from_an_empty_folder(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Beside the packages that it needs, which the tests' own environment has."""
    target = tmp_path / "target"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    run(*pip, "--target", target, built[0], cwd=tmp_path)
    code = (
        "import lowmode_fx, passes; from lowmode_fx import *; from passes import *; "
        "import lowmode_fx.cli; print(lowmode_fx.__file__, passes.__file__)"
    )
    found = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(target)).splitlines()[-1]
    assert found == f"{target / 'lowmode_fx/__init__.py'} {target / 'passes/__init__.py'}"
    assert "Usage: lowmode-fx" in run(
        sys.executable, "-m", "lowmode_fx", "--help", cwd=tmp_path, PYTHONPATH=str(target)
    )
    assert (target / "bin/lowmode-fx").is_file()
