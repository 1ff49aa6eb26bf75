"""A run that is over or stopped: what its ``summary.json`` says of model, data and settings, known before torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowmode_fx.train.names import CURRENT, PREVIOUS, STATE_FILE, SUMMARY
from lowmode_fx.train.settings import TrainSettings
from passes.wording import first_line

_WAY_OUT = "give a folder that lowmode-fx train wrote"


@dataclass(frozen=True)
class PastRun:
    """``data``: its spec, as it was given to the run. ``image_shape``: (C, H, W). ``mean`` and ``std``: per channel, of
    images in [0, 1]."""

    path: Path
    model: str
    data: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: TrainSettings

    @property
    def image_size(self) -> int | None:
        """The side of its images; ``None`` where they are no squares, and so of the size that they are stored in."""
        _, height, width = self.image_shape
        return height if height == width else None


def read_past_run(path: Path) -> PastRun:
    """Read a run folder. Raises ``ValueError`` for one without a run or a checkpoint, or with another summary."""
    name = f"run folder {str(path)!r}"
    if not path.is_dir():
        raise ValueError(f"{name} {'is a file' if path.exists() else 'does not exist'}; {_WAY_OUT}")
    if not (path / SUMMARY).is_file():
        above = path.resolve().parent
        hint = f"give {str(path.parent)!r}" if (above / SUMMARY).is_file() else _WAY_OUT
        raise ValueError(f"{name} holds no run: it has no {SUMMARY}; {hint}")
    if not any((path / each / STATE_FILE).is_file() for each in (CURRENT, PREVIOUS)):
        raise ValueError(f"{name} holds no checkpoint: its run ended before the first was written; {_WAY_OUT}")
    try:
        summary = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
        return _from_summary(path, summary)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        missing = f"it doesn't say {error}" if isinstance(error, KeyError) else first_line(error)
        raise ValueError(
            f"{str(path / SUMMARY)!r} doesn't describe a run of lowmode-fx train: {missing}; {_WAY_OUT}"
        ) from error


def _from_summary(path: Path, summary: Mapping[str, Any]) -> PastRun:
    data = summary["data"]
    channels, height, width = data["image_shape"]
    return PastRun(
        path,
        summary["model"],
        data["spec"],
        tuple(data["classes"]),
        (channels, height, width),
        tuple(data["mean"]),
        tuple(data["std"]),
        TrainSettings.from_dict(summary["settings"]),
    )
