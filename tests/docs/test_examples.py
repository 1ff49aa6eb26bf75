"""Examples of the README and of every page: Python runs, commands are ones that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from pages import PAGES, blocks, commands
from torch.distributed.run import parse_args

from lowmode_fx import Ladder
from lowmode_fx.cli import app

EXAMPLES = {page: blocks(text, "python") for page, text in PAGES.items() if blocks(text, "python")}
COMMANDS = [words for text in PAGES.values() for words in commands(text)]
PACKAGES = r"^(?:import|from) (lightning|accelerate|transformers)\b"
INTEGRATIONS = r"lowmode_fx\.integrations\.(\w+)"


@pytest.mark.parametrize("page", EXAMPLES)
@pytest.mark.usefixtures("one_thread")
def test_the_python_examples_of_a_page_run_one_after_the_other(
    page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # What torchrun tells each process, here the only one.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    missing = []
    for code in EXAMPLES[page]:
        try:
            exec(compile(code, page, "exec"), names)
        except ImportError as error:
            wanted = re.findall(PACKAGES, code, re.MULTILINE)
            if error.name not in wanted and not set(re.findall(INTEGRATIONS, code)) & set(missing):
                raise
            missing += [error.name] if error.name in wanted else []
    ladders = [value for value in names.values() if isinstance(value, Ladder)]
    told = [note for ladder in ladders for rung in ladder.rungs for note in rung.report.notes]
    # A detector on images of its own size has a map of 2×2 among its extra ones.
    lost = [note for note in told if "becomes 1×1" in note and " at extra." not in note]
    assert lost == [], "the example's images are too small for its model"
    if missing:
        pytest.skip(f"not installed, and its example did not run: {', '.join(missing)}")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_command_line_takes_every_command(words: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    if words and words[0] != "COMMAND":
        name, *arguments = words
        group.commands[name].make_context(name, arguments)


def test_torchrun_leaves_the_commands_options_to_it() -> None:
    """``--p`` is the beginning of an option of torchrun's own."""
    (call,) = re.findall(r"^torchrun (.*?[^\\])$", PAGES["docs/train/distributed.md"], re.MULTILINE | re.DOTALL)
    words = shlex.split(call.replace("\\\n", " "))
    parsed = parse_args(words)
    assert (parsed.training_script, parsed.no_python) == ("lowmode-fx", True)
    assert parsed.training_script_args[:2] == ["train", "resnet18"]
    assert parse_args([*words, "--p", "0.5"]).training_script_args[-2:] == ["--p", "0.5"]
    with pytest.raises(SystemExit):
        parse_args([*(word for word in words if word != "--"), "--p", "0.5"])


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 10 and len(COMMANDS) > 15
    assert {words[0] for words in COMMANDS} >= {"report", "draw", "probe", "tune", "train"}
