"""Messages of the library name Python's arguments; on a command line the same messages name its options."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training import tiny_model, write_images

import lowmode_fx
import passes
from lowmode_fx.cli.spelling import command_spelling
from lowmode_fx.train import DataSplits, RunFolder, load_checkpoint, load_data, train
from lowmode_fx.train.checkpoint import CheckpointError
from lowmode_fx.train.outputs import logits_of
from lowmode_fx.train.reading import _Batches
from lowmode_fx.train.settings import TrainSettings
from passes.spelling import setting, spelled

COMMAND = command_spelling({"image_size", "out", "resume", "overwrite", "criterion"})
ROOTS = [Path(package.__file__ or "").parent for package in (lowmode_fx, passes)]
#: Options of other programs.
OTHERS = ("--nproc-per-node",)


def strings_of(tree: ast.Module) -> Iterator[str]:
    """All text of a module but its docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_no_message_outside_the_commands_spells_an_option() -> None:
    found = {
        f"{path.name}: {option}"
        for root in ROOTS
        for path in root.rglob("*.py")
        if "cli" not in path.relative_to(root).parts
        for text in strings_of(ast.parse(path.read_text(encoding="utf-8")))
        for option in re.findall(r"--[a-z][a-z-]+", text)
        if option not in OTHERS
    }
    assert found == set()


def messages(tmp_path: Path) -> dict[str, str]:
    """What is said of some mistakes, by kind."""
    told = {}

    def keep(kind: str, error: Exception) -> None:
        told[kind] = str(error).replace(str(tmp_path), "")

    for side, part in ((8, "train"), (9, "val")):
        write_images(tmp_path / "set" / part, {"cat": 2, "dog": 2}, side=side)
    with pytest.raises(ValueError) as sizes:
        load_data(f"folder:{tmp_path / 'set'}")
    keep("sizes", sizes.value)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run/summary.json").touch()
    with pytest.raises(ValueError) as exists:
        RunFolder.open(tmp_path / "run")
    keep("exists", exists.value)
    with pytest.raises(ValueError) as both:
        RunFolder.open(tmp_path / "run", resume=True, overwrite=True)
    keep("both", both.value)
    with pytest.raises(CheckpointError) as none:
        load_checkpoint(tmp_path / "run")
    keep("none", none.value)
    with pytest.raises(ValueError) as outputs:
        logits_of({"boxes": 3})
    keep("outputs", outputs.value)
    return told


def test_in_python_they_are_arguments(tmp_path: Path) -> None:
    own = "criterion='package.module:callable'"
    assert messages(tmp_path) == {
        "sizes": "images are 8×8 in train and 9×9 in validation; give image_size",
        "exists": "run folder '/run' exists; give resume=True, overwrite=True or another path",
        "both": "resume=True and overwrite=True exclude each other; give one of them",
        "none": "run folder '/run' has none; no whole checkpoint is left, start again with overwrite=True",
        "outputs": "model returns a dict of boxes, of which none is known as logits; return the logits alone, or "
        f"give {own}, which takes outputs and labels",
    }


def test_on_a_command_line_they_are_options(tmp_path: Path) -> None:
    own = "--criterion 'package.module:callable'"
    with spelled(COMMAND):
        assert messages(tmp_path) == {
            "sizes": "images are 8×8 in train and 9×9 in validation; give --image-size",
            "exists": "run folder '/run' exists; give --resume, --overwrite or another --out",
            "both": "--resume and --overwrite exclude each other; give one of them",
            "none": "run folder '/run' has none; no whole checkpoint is left, start again with --overwrite",
            "outputs": "model returns a dict of boxes, of which none is known as logits; return the logits "
            f"alone, or give {own}, which takes outputs and labels",
        }


def refuse(index: int) -> tuple[torch.Tensor, int]:
    raise ValueError(f"image {index} is of another size; give {setting('image_size')}")


def test_another_process_that_reads_has_the_spelling_of_the_one_that_asks() -> None:
    """It may be a fresh one, that inherits nothing: what it gets is pickled."""
    with spelled(COMMAND):
        sent = pickle.dumps(_Batches(refuse, [torch.tensor([4])]))
    assert pickle.loads(sent)[0][2] == "image 4 is of another size; give --image-size"
    assert _Batches(refuse, [torch.tensor([4])])[0][2] == "image 4 is of another size; give image_size"


def test_a_run_that_cannot_resume_names_arguments(tmp_path: Path) -> None:
    splits: DataSplits = load_data("digits", 8)
    settings = TrainSettings(epochs=1, batch_size=700, compile=False, device="cpu")
    train(tiny_model(), splits, settings, RunFolder.open(tmp_path / "run"), quiet=True)
    other = TrainSettings(epochs=1, batch_size=700, compile=False, device="cpu", lr=0.2)
    with pytest.raises(CheckpointError) as error:
        train(tiny_model(), splits, other, RunFolder.open(tmp_path / "run", resume=True), resume=True, quiet=True)
    assert str(error.value).endswith(
        "lr is 0.2, the run there has 0.1; give the same again, or overwrite=True or another path"
    )
