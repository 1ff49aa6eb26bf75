"""A forward that depends on values is an ordinary case: torch's logs of it are kept quiet, and nothing else is."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from passes.torch_internals import quiet_misfits

FAKES, SHAPES = "torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes"

SCRIPT = """
import logging, sys, torch
from torch import nn
from lowmode_fx import LowModeConfig, TraceError, build_pair

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, images):
        logging.getLogger("torch.of_mine").warning("a log of the user's")
        print("printed by the user", file=sys.stderr)
        maps = self.stem(images)
        return self.head((self.body(maps) if self.asks(maps) else maps).mean((2, 3)))

class Branch(Net):
    def asks(self, maps):
        return maps.mean() > 0

class Loop(Net):
    def asks(self, maps):
        while maps.abs().max() > 1:
            maps = maps / 2
        return True

class Item(Net):
    def asks(self, maps):
        return maps.mean().item() > 0

class Mask(Net):
    def asks(self, maps):
        return len(maps[maps.mean((1, 2, 3)) > 0]) < 9

for kind in (Branch, Loop, Item, Mask):
    for front_end in ("export", "auto"):
        try:
            build_pair(kind(), torch.randn(2, 3, 32, 32), LowModeConfig(pool_convs="all"), front_end=front_end)
            print(kind.__name__, front_end, "is built")
        except TraceError as error:
            print(error)
"""


def built(tmp_path: Path, **environment: str) -> tuple[list[str], list[str]]:
    """The script's lines on standard output and standard error, in a process of its own, with torch's own handlers."""
    (tmp_path / "nets.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    inherited = {name: value for name, value in os.environ.items() if name != "TORCH_LOGS"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "nets.py"],
        capture_output=True, text=True, cwd=tmp_path, env={**inherited, "PYTHONPATH": paths, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_a_branch_on_values_is_one_line_and_the_users_own_words(tmp_path: Path) -> None:
    told, errors = built(tmp_path)
    refused, made = told[::2], told[1::2]
    assert made == [f"{name} auto is built" for name in ("Branch", "Loop", "Item", "Mask")]
    assert len(refused) == 4
    for line in refused:
        assert " can't be traced on (2, 3, 32, 32) of torch.float32: export: Could not " in line
        assert "data-dependent expression" in line and " of nets.py); check that the model takes this input" in line
    logged = [line for line in errors if line.endswith("] a log of the user's")]
    printed = [line for line in errors if line == "printed by the user"]
    assert len(logged) == len(printed) >= 8 and sorted(errors) == sorted([*logged, *printed])


def test_who_asks_for_torchs_logs_gets_them(tmp_path: Path) -> None:
    _, errors = built(tmp_path, TORCH_LOGS="export")
    assert any("Unable to find user code" in line for line in errors)
    assert any(line.startswith("def forward(self, ") for line in errors)


def test_two_threads_are_quiet_apart(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to enter leaves first; each is quiet for itself alone, and in the end all is as it was."""
    monkeypatch.delenv("TORCH_LOGS", raising=False)
    loggers = [logging.getLogger(name) for name in (FAKES, SHAPES)]
    before = [(logger.disabled, logger.level, list(logger.filters)) for logger in loggers]
    for logger in loggers:
        monkeypatch.setattr(logger, "propagate", True)
        logger.addHandler(caplog.handler)

    def say(word: str) -> None:
        for logger in loggers:
            logger.warning(word)

    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        say("other before")
        with quiet_misfits():
            say("other inside")
            entered.set()
            assert left.wait(30)
            say("other still inside")
        say("other after")

    thread = threading.Thread(target=other)
    with quiet_misfits():
        thread.start()
        assert entered.wait(30)
        say("first inside")
        with quiet_misfits():
            say("first inside twice")
        say("first inside again")
    say("first after")
    left.set()
    thread.join()
    for logger in loggers:
        logger.removeHandler(caplog.handler)
    assert list(dict.fromkeys(record.getMessage() for record in caplog.records)) == [
        "other before",
        "first after",
        "other after",
    ]
    assert [(logger.disabled, logger.level, logger.filters) for logger in loggers] == before
