"""Algorithm 1 as a small loop: data, settings, the loop itself, checkpoints and pictures."""

from __future__ import annotations

from lowmode_fx.train.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from lowmode_fx.train.data import DataSplits, load_data
from lowmode_fx.train.loop import TrainingDivergedError, train
from lowmode_fx.train.plots import plot_curves
from lowmode_fx.train.records import EpochRecord, RunResult
from lowmode_fx.train.run_folder import RunFolder
from lowmode_fx.train.settings import TrainSettings

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "DataSplits",
    "EpochRecord",
    "RunFolder",
    "RunResult",
    "TrainSettings",
    "TrainingDivergedError",
    "load_checkpoint",
    "load_data",
    "plot_curves",
    "save_checkpoint",
    "train",
]
