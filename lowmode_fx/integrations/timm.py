"""timm: tasks for its training script, which saves what a task tells and trains what it holds."""

from __future__ import annotations

from typing import Any

from torch import nn

from lowmode_fx.integrations.extras import need
from lowmode_fx.integrations.nets import nets_in
from lowmode_fx.runtime.model import LowModeModel

task: Any = need("timm.task", "timm")


class _KeepsSchedule:
    """What stands before a task's class: its state holds the schedule."""

    def get_task_state(self: Any, module: Any = None, ema: bool = False) -> dict[str, Any]:
        """The task's own, and where the schedule stands; averages have no schedule."""
        state: dict[str, Any] = super().get_task_state(module, ema)  # type: ignore[misc]
        return state if ema else {**state, "lowmode": [net.schedule_state() for net in _nets(self)]}

    def load_task_state(
        self: Any, state: dict[str, Any] | None, strict: bool = True, module: Any = None, ema: bool = False
    ) -> None:
        """Go on from there."""
        rest = dict(state or {})
        saved = rest.pop("lowmode", [])
        if saved and not ema:
            for net, each in zip(_nets(self), saved, strict=True):
                net.load_schedule_state(each)
        super().load_task_state(rest, strict, module, ema)  # type: ignore[misc]

    def attach(self: Any, optimizer: Any) -> None:
        """Count the optimizer's steps."""
        for net in _nets(self):
            net.attach(optimizer)

    def set_epoch(self: Any, epoch: int) -> None:
        """Tell the epoch (from 0) before it begins."""
        for net in _nets(self):
            net.set_epoch(epoch)


class LowModeTask(_KeepsSchedule, task.ClassificationTask):
    """timm's ``ClassificationTask`` over a net: its checkpoints hold the schedule.

    Arguments are its; averages (``setup_ema``), ``compile`` and ``prepare_distributed`` are timm's.
    """


def low_mode_task(made: nn.Module) -> Any:
    """Any ``timm.task.TrainingTask`` over a net as one whose checkpoints hold the schedule.

    made: the same object comes back, of a class that has ``attach(optimizer)`` and ``set_epoch(epoch)`` too.

    Raises ``ValueError`` where the task trains no net.
    """
    _nets(made)
    kind = type(made)
    if not isinstance(made, _KeepsSchedule):
        made.__class__ = type(kind.__name__, (_KeepsSchedule, kind), {"__module__": kind.__module__})
    return made


def _nets(made: Any) -> list[LowModeModel]:
    return nets_in(made.get_trainable_module())
