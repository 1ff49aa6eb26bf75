"""What a file of weights holds, and in words why another can't be read: torch's own words are for its developers."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from passes.errors import OptionError

#: What may be given for weights.
FORMS = "a state_dict by torch.save, .safetensors, or a run folder"
_SAVE = "save weights alone: torch.save(model.state_dict(), path)"
#: How files of ``torch.save`` begin: in its format of today a zip archive, in the one before a pickled number.
_ZIP, _OLD = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
#: What ``torch.load`` says of a class or function that it doesn't know to be harmless.
_OBJECT = re.compile(r"GLOBAL ([\w.]+)")


def load_file(option: str, path: Path) -> Any:
    """What a file of safetensors or of ``torch.save`` holds, on the CPU; no code of the file's runs.

    option: the one that names the path. Raises ``OptionError`` that says what a file is that can't be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of formats, which the error tells
            if path.suffix.lower() == ".safetensors":
                return safetensors.torch.load_file(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises whatever it meets
        problem, hint = _unreadable(path, str(error))
        raise OptionError(option, path, problem, hint) from error


def _unreadable(path: Path, said: str) -> tuple[str, str]:
    """Why a file can't be read, and what to do, by how it begins and by what the library ``said``."""
    give = f"give {FORMS}"
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        return f"can't be read ({error.strerror})", give
    is_safetensors = head[8:9] == b"{" and b"\0" in head[:8]
    if not head:
        return "is empty", give
    if is_safetensors and path.suffix.lower() != ".safetensors":
        return "is in the format of safetensors, by another name", "let its name end in .safetensors"
    if head.startswith((_ZIP, _OLD)) and path.suffix.lower() == ".safetensors":
        return "is of torch.save, by another name", "let its name end in .pt"
    found = _OBJECT.search(said)
    if found is not None and head.startswith((_ZIP, _OLD)):
        return f"holds an object of Python ({found[1]}), whose code is not run", _SAVE
    if head.startswith(_ZIP) and zipfile.is_zipfile(path):  # whole: a cut one has no end
        return _of_archive(zipfile.ZipFile(path).namelist(), said, give)
    if head.startswith((_ZIP, _OLD)) or is_safetensors:
        return "is cut short or damaged", "copy it anew, or give another"
    if head.startswith(b"\x80") and head[1] <= 5:
        return "is a pickle, which could run code", _SAVE
    return f"is {'text, no' if _is_text(head) else 'no'} file of weights", give


def _of_archive(names: Sequence[str], said: str, give: str) -> tuple[str, str]:
    if any(name.endswith("/constants.pkl") for name in names):
        return "is a TorchScript archive", _SAVE
    if not any(name.endswith("/data.pkl") for name in names):
        return "is a zip archive without weights", give
    if "Unsupported operand" in said:
        return "is pickled in a protocol that is not read safely", f"{_SAVE}, with its default protocol"
    return f"can't be read ({said.rpartition('Unpickler error:')[2].strip().partition(chr(10))[0]})", give


def _is_text(head: bytes) -> bool:
    # A character may be cut where the head ends.
    return b"\0" not in head and "\ufffd" not in head.decode("utf-8", errors="replace").rstrip("\ufffd")
