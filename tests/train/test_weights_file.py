"""Files that hold no weights: each is told by what it is, never in torch's words, and none is unpickled."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lowmode_fx.train.weights_file import FORMS, load_file
from passes.errors import OptionError

WEIGHTS = {"weight": torch.arange(3000.0)}
ALONE = "save weights alone: torch.save(model.state_dict(), path)"
DAMAGED = "is cut short or damaged; copy it anew, or give another"
TEXT = f"is text, no file of weights; give {FORMS}"


class Shell:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def cut(write: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def wrote(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return wrote


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images/a.txt", "an image")


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(path)


def old(path: Path) -> None:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)


def saved(value: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


def written(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "run.json": (written(b'{"a": 1}'), TEXT),
    "notes.txt": (written(("é" * 5000).encode()), TEXT),
    "image.png": (written(b"\x89PNG\r\n\x1a\n\0\0"), f"is no file of weights; give {FORMS}"),
    "empty.pt": (written(b""), f"is empty; give {FORMS}"),
    "empty.safetensors": (written(b""), f"is empty; give {FORMS}"),
    "text.safetensors": (written(b"hello"), TEXT),
    "cut.pt": (cut(saved(WEIGHTS)), DAMAGED),
    "cut_old.pt": (cut(old), DAMAGED),
    "cut.safetensors": (cut(lambda path: save_file(WEIGHTS, path)), DAMAGED),
    "module.pt": (
        saved(nn.Linear(2, 2)),
        f"holds an object of Python (torch.nn.modules.linear.Linear), whose code is not run; {ALONE}",
    ),
    "options.pt": (
        saved({"model": WEIGHTS, "args": argparse.Namespace(lr=1)}),
        f"holds an object of Python (argparse.Namespace), whose code is not run; {ALONE}",
    ),
    "shell.pt": (saved([Shell()]), f"holds an object of Python (posix.system), whose code is not run; {ALONE}"),
    "weights.pkl": (written(pickle.dumps(WEIGHTS)), f"is a pickle, which could run code; {ALONE}"),
    "script.pt": (scripted, f"is a TorchScript archive; {ALONE}"),
    "set.zip": (archive, f"is a zip archive without weights; give {FORMS}"),
    "save.safetensors": (saved(WEIGHTS), "is of torch.save, by another name; let its name end in .pt"),
    "safe.pt": (
        lambda path: save_file(WEIGHTS, path),
        "is in the format of safetensors, by another name; let its name end in .safetensors",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_is_that_holds_no_weights(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write, message = FILES[name]
    write(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OptionError) as refused:
            load_file("weights", Path(name))
    assert str(refused.value) == f"weights={Path(name)!r} {message}"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "write"),
    [("new.pt", saved(WEIGHTS)), ("old.pt", old), ("safe.safetensors", lambda path: save_file(WEIGHTS, path))],
)
def test_weights_are_read(tmp_path: Path, name: str, write: Callable[[Path], Any]) -> None:
    write(tmp_path / name)
    assert torch.equal(load_file("weights", tmp_path / name)["weight"], WEIGHTS["weight"])
