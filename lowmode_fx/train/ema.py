"""The exponential moving average of a run's weights, by timm's ``ModelEmaV3``: what is then validated and kept."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from lowmode_fx.train.checkpoint import as_safetensors
from lowmode_fx.utils.atomic import write_atomically


class WeightAverage:
    """An average of ``model``'s weights and buffers over the steps, whose decay grows up to ``decay``.

    After step t, from 0, the average keeps min(decay, 1 - t^(-2/3)) of itself, so that short runs are not held back by
    their first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        from timm.utils import ModelEmaV3

        self.source = model
        self.average = ModelEmaV3(model, decay=decay, use_warmup=True)
        self.steps = 0

    @property
    def model(self) -> nn.Module:
        """A module of the averaged weights."""
        module: nn.Module = self.average.module
        return module

    def update(self) -> None:
        """Take in the weights after another step."""
        self.average.update(self.source, step=self.steps)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the number of steps, and the weights by the model's own keys."""
        return {"steps": self.steps, "weights": dict(self.model.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``. Raises ``KeyError`` or ``RuntimeError`` for what doesn't fit."""
        self.steps = int(state["steps"])
        self.model.load_state_dict(state["weights"], strict=True)

    def write(self, path: Path) -> None:
        """The averaged weights as safetensors, by the model's own keys. Raises ``OSError`` when the disk is full."""
        write_atomically(path, partial(_write_bytes, payload=as_safetensors(self.model.state_dict())))


def _write_bytes(path: Path, payload: bytes) -> None:
    path.write_bytes(payload)
