"""Checks of a checkpoint's state before a run resumes from it: the file may be older, or edited by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lowmode_fx.train.checkpoint import CheckpointError
from lowmode_fx.train.names import STATE_FILE
from lowmode_fx.train.records import EpochRecord, unfinished_steps
from passes.spelling import setting
from passes.wording import first_line

#: The parts of a state, each with its kind.
_PARTS: dict[str, type | tuple[type, ...]] = {
    **{"identity": Mapping, "epoch": int, "step": int, "seconds": (int, float), "compile_seconds": (int, float)},
    **{"loss_sum": torch.Tensor, "records": (list, tuple)},
    **{"optimizer": Mapping, "scaler": Mapping, "schedule": Mapping, "rng": Mapping},
}


def check_state(state: Mapping[str, Any], *, steps: int) -> None:
    """Raise ``ValueError`` if no run of ``steps`` steps per epoch can be in this state."""
    for name, kind in _PARTS.items():
        if name not in state:
            raise ValueError(f"it has no {name!r}")
        if not isinstance(state[name], kind) or isinstance(state[name], bool):
            raise ValueError(f"its {name!r} is of type {type(state[name]).__name__}")
    epoch, step = state["epoch"], state["step"]
    if epoch < 0 or not 0 <= step < max(steps, 1):
        raise ValueError(f"epoch {epoch}, step {step} is no place in a run of {steps} steps an epoch")
    try:
        records = [EpochRecord.from_dict(record) for record in state["records"]]
        counted = unfinished_steps(state)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its records can't be read ({type(error).__name__}: {first_line(error)})") from error
    if [record.epoch for record in records] != list(range(epoch)):
        raise ValueError(f"it has records of {len(records)} epochs, and has done {epoch}")
    if sum(counted.values()) != step:
        raise ValueError(f"it counts {sum(counted.values())} steps of its epoch, and has done {step}")


@contextmanager
def fitting_state(folder: Path) -> Iterator[None]:
    """Load parts of a state inside: one that does not fit becomes a ``CheckpointError``."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(
            f"checkpoint file {str(folder / STATE_FILE)!r} does not fit this run ({reason}); start again with "
            f"{setting('overwrite', True)}, or give another {setting('path')}"
        ) from error
