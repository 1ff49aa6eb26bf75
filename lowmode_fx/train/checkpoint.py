"""Checkpoints: ``checkpoint/model.safetensors`` (the model's own keys) and ``checkpoint/state.pt`` (all else).

The two files change together or not at all. A new pair is written to ``checkpoint.partial``; then the old one is
renamed to ``checkpoint.previous`` and the new one into its place. A kill at any moment leaves at least one whole pair,
and ``load_checkpoint`` takes the newest whole one; checksums show which are whole.
"""

from __future__ import annotations

import hashlib
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from lowmode_fx.train.names import CURRENT, MODEL_FILE, PARTIAL, PREVIOUS, STATE_FILE
from lowmode_fx.utils.atomic import sync_file, sync_folder
from passes.spelling import setting
from passes.wording import one_line

FORMAT = "lowmode_fx.checkpoint"
#: Version 1 counted the steps of two modes; 2 counts them by mode.
VERSION, READABLE = 2, (1, 2)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to something else; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint: the model's state dict, the rest, where it lay, and what was wrong with newer ones."""

    weights: dict[str, torch.Tensor]
    state: dict[str, Any]
    folder: Path
    damage: tuple[str, ...] = ()


def save_checkpoint(run_folder: Path, weights: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one before it stays as ``checkpoint.previous``.

    weights: a ``state_dict()``.
    state: what ``torch.load(weights_only=True)`` reads: numbers, strings, lists, dicts and tensors.

    Raises ``OSError`` when the disk is full; the checkpoints that were there are then untouched.
    """
    partial, current, previous = (run_folder / name for name in (PARTIAL, CURRENT, PREVIOUS))
    _remove(partial)
    try:
        partial.mkdir(parents=True)
        model_file, state_file = partial / MODEL_FILE, partial / STATE_FILE
        try:
            digest = _write_weights(model_file, weights)
            torch.save({"format": FORMAT, "version": VERSION, "model_sha256": digest, **state}, state_file)
        except (RuntimeError, safetensors.SafetensorError) as error:  # what torch and safetensors make of a full disk
            raise OSError(f"cannot write checkpoint {str(partial)!r}: {one_line(error)}") from error
        sync_file(model_file)
        sync_file(state_file)
        sync_folder(partial)
    except BaseException:
        _remove(partial)
        raise
    if current.exists():
        _remove(previous)
        current.rename(previous)
    partial.rename(current)
    sync_folder(run_folder)


def as_safetensors(weights: Mapping[str, torch.Tensor]) -> bytes:
    """A file of a ``state_dict()``. Tensors that share storage (tied weights) are in it one by one."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    return safetensors.torch.save(copies, metadata={"format": "pt"})


def _write_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> str:
    """Write safetensors and return their SHA-256."""
    payload = as_safetensors(weights)
    path.write_bytes(payload)
    return hashlib.sha256(payload).hexdigest()


def has_checkpoint(run_folder: Path) -> bool:
    return any((run_folder / name / STATE_FILE).exists() for name in (CURRENT, PREVIOUS))


def load_checkpoint(
    run_folder: Path,
    check: Callable[[Mapping[str, Any]], None] = lambda state: None,
    *,
    else_do: str | None = None,
) -> Checkpoint:
    """The newest whole checkpoint of a run folder.

    check: raises ``ValueError`` for a state that no run can be in; an older checkpoint then serves.
    else_do: what to do where none is whole, for the message; ``None``: to overwrite the run.

    Raises ``CheckpointError``, naming the file, if there is none.
    """
    damage = []
    # A whole ``partial`` comes from a kill between the two renames. One that isn't whole is the usual trace of a kill.
    for name in (CURRENT, PARTIAL, PREVIOUS):
        folder = run_folder / name
        if not folder.is_dir():
            continue
        try:
            checkpoint = read_checkpoint(folder)
            _check(checkpoint.state, folder, check)
        except CheckpointError as error:
            if name != PARTIAL:
                damage.append(str(error))
            continue
        return replace(checkpoint, damage=tuple(damage))
    told = "; ".join(damage) or f"run folder {str(run_folder)!r} has none"
    raise CheckpointError(f"{told}; no whole checkpoint is left, {else_do or _start_again()}")


def _start_again() -> str:
    return f"start again with {setting('overwrite', True)}"


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder such as ``checkpoint.previous``. Raises ``CheckpointError`` unless it is whole."""
    model_file, state_file = folder / MODEL_FILE, folder / STATE_FILE
    for path in (model_file, state_file):
        if not path.is_file():
            raise CheckpointError(f"checkpoint file {str(path)!r} is missing")
    try:
        with zipfile.ZipFile(state_file) as archive:
            if damaged := archive.testzip():  # torch.load itself doesn't look at the checksums
                raise CheckpointError(f"checkpoint file {str(state_file)!r} is damaged (in {damaged})")
        state = torch.load(state_file, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"checkpoint file {str(state_file)!r} is truncated or damaged") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint file {str(state_file)!r} was written by another program")
    if state.get("version") not in READABLE:
        readable = ", ".join(map(str, READABLE))
        raise CheckpointError(
            f"checkpoint file {str(state_file)!r} has version {state.get('version')}; readable are {readable}"
        )
    payload = model_file.read_bytes()
    if hashlib.sha256(payload).hexdigest() != state.get("model_sha256"):
        raise CheckpointError(f"checkpoint file {str(model_file)!r} is truncated, damaged or from another checkpoint")
    return Checkpoint(safetensors.torch.load(payload), state, folder)


def _check(state: Mapping[str, Any], folder: Path, check: Callable[[Mapping[str, Any]], None]) -> None:
    try:
        check(state)
    except ValueError as error:
        raise CheckpointError(f"checkpoint file {str(folder / STATE_FILE)!r} holds no run's state: {error}") from error


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load strictly. Raises ``CheckpointError`` that names a key or shape that doesn't fit."""
    place = f"checkpoint {str(checkpoint.folder / MODEL_FILE)!r}"
    hint = f"give the model that wrote it, or {setting('overwrite', True)} or another {setting('path')}"
    load_strictly(model, checkpoint.weights, place, hint)


def load_strictly(model: nn.Module, weights: Mapping[str, torch.Tensor], place: str, hint: str) -> None:
    """Load a whole state dict. place: where it is from, hint: what to do, for the ``CheckpointError`` of another."""
    wanted = model.state_dict()
    if differing := sorted(set(wanted) ^ set(weights)):
        side = "lacks" if differing[0] in wanted else "has an unknown"
        raise CheckpointError(f"{place} is of another model: it {side} {differing[0]!r}; {hint}")
    for name, tensor in wanted.items():
        if tensor.shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)}, the model's is {tuple(tensor.shape)}"
            raise CheckpointError(f"{place} is of another model: shape of {name!r} is {shapes}; {hint}")
    model.load_state_dict(weights, strict=True)


def rng_state() -> dict[str, Any]:
    """The states of all global generators, as values that a weights-only load reads."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(words), gauss],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """The inverse of ``rng_state``. GPU generators are set for as many GPUs as there are now."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda_state, device)
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
