"""Algorithm 1 as a small loop: data, settings, the loop itself, checkpoints and pictures."""

from typing import TYPE_CHECKING

from passes.lazy import import_lazily

if TYPE_CHECKING:
    from lowmode_fx.train.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
    from lowmode_fx.train.data import load_data
    from lowmode_fx.train.loop import TrainingDivergedError, train
    from lowmode_fx.train.plots import plot_curves
    from lowmode_fx.train.records import EpochRecord, RunResult
    from lowmode_fx.train.run_folder import RunFolder
    from lowmode_fx.train.settings import TrainSettings
    from lowmode_fx.train.splits import DataSplits

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

# Where each name lives: settings and run folders are known before torch is.
import_lazily(
    __name__,
    {
        "lowmode_fx.train.checkpoint": ("Checkpoint", "CheckpointError", "load_checkpoint", "save_checkpoint"),
        "lowmode_fx.train.data": ("load_data",),
        "lowmode_fx.train.splits": ("DataSplits",),
        "lowmode_fx.train.loop": ("TrainingDivergedError", "train"),
        "lowmode_fx.train.plots": ("plot_curves",),
        "lowmode_fx.train.records": ("EpochRecord", "RunResult"),
        "lowmode_fx.train.run_folder": ("RunFolder",),
        "lowmode_fx.train.settings": ("TrainSettings",),
    },
)
