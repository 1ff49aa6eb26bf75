"""The learning rate of a run: one of torch's schedulers, moved on after each step and each epoch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from lowmode_fx.train.cost_progress import passed_share
from lowmode_fx.train.settings import TrainSettings


class PlannedLR(LRScheduler):
    """The rate that ``TrainSettings.learning_rate`` gives each step: a pure function, so its state is a number.

    ``progress``: the share of the run that has passed at the start of each epoch, if it is not that of the steps.
    """

    def __init__(
        self, optimizer: Optimizer, settings: TrainSettings, steps: int, progress: Sequence[float] | None = None
    ) -> None:
        self.settings, self.steps, self.progress = settings, steps, progress
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The coming step's rate, of every group."""
        epoch, step = divmod(self.last_epoch, self.steps)
        share = step / self.steps
        passed = None if self.progress is None else passed_share(self.progress, epoch, share)
        return [self.settings.learning_rate(epoch, share, passed)] * len(self.optimizer.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps taken."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on after so many steps."""
        self.last_epoch = int(state_dict["last_epoch"])
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


class LearningRate:
    """The scheduler of a run of ``steps`` steps an epoch, over all groups of ``optimizer``.

    ``rate`` is the one that the last step was taken with, of the first group. ``progress``: as in ``PlannedLR``.
    """

    def __init__(
        self, optimizer: Optimizer, settings: TrainSettings, steps: int, progress: Sequence[float] | None = None
    ) -> None:
        self.optimizer, self.steps = optimizer, steps
        self.plateau: ReduceLROnPlateau | None = None
        self.scheduler = _scheduler(optimizer, settings, steps, progress)
        if settings.lr_schedule == "plateau":
            self.plateau = ReduceLROnPlateau(
                optimizer, "max", settings.lr_gamma, settings.patience_epochs, threshold_mode="abs"
            )
        self.rate = self.coming

    @property
    def coming(self) -> float:
        """The rate of the step to come."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, steps: int = 1) -> None:
        """After each step, whose images are those of ``steps`` full steps."""
        self.rate = self.coming
        with warnings.catch_warnings():
            # The optimizer's first step may be one that the gradient scaler left out, or a part of a CUDA graph.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(steps):
                self.scheduler.step()

    def finish_epoch(self, accuracy: float) -> None:
        """After each epoch, its validation accuracy in [0, 1]."""
        if self.plateau is not None:
            self.plateau.step(accuracy)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        plateau = {} if self.plateau is None else {"plateau": self.plateau.state_dict()}
        return {"scheduler": self.scheduler.state_dict(), **plateau}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``, once the optimizer has its own state back."""
        self.scheduler.load_state_dict(dict(state["scheduler"]))
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])
        self.rate = self.coming

    def state_at(self, epoch: int, step: int) -> dict[str, Any]:
        """The state after so many epochs and steps, for checkpoints that hold none: those of planned rates alone."""
        return {"scheduler": {"last_epoch": epoch * self.steps + step}}


def _scheduler(
    optimizer: Optimizer, settings: TrainSettings, steps: int, progress: Sequence[float] | None
) -> LRScheduler:
    """What moves at each step."""
    kind, gamma, decay = settings.lr_schedule, settings.lr_gamma, settings.falls_every * steps
    if kind in ("milestones", "cosine", "onecycle"):
        return PlannedLR(optimizer, settings, steps, progress)
    parts: list[LRScheduler] = []
    if kind == "step":
        parts.append(StepLR(optimizer, decay, gamma))
    elif kind == "exponential":
        parts.append(ExponentialLR(optimizer, gamma ** (1 / decay)))
    elif kind == "linear":
        parts.append(PolynomialLR(optimizer, settings.epochs * steps, power=1))
    if settings.warmup_epochs or not parts:  # factors multiply, as those of the planned rates do
        warm = max(settings.warmup_epochs, 1)
        first = 1 / (100 * warm) if settings.warmup_epochs else 1.0
        parts.append(LinearLR(optimizer, first, total_iters=warm * steps))
    return ChainedScheduler(parts)
