"""timm: tasks for its training script, whose checkpoints hold the schedule."""

from __future__ import annotations

from typing import Any

from torch import nn

from lowmode_fx.integrations.extras import need
from lowmode_fx.integrations.nets import attach_to, nets_in
from lowmode_fx.runtime.model import LowModeModel

task: Any = need("timm.task", "timm")


class _KeepsSchedule:
    """A mixin in front of a task's class: its state holds the schedule."""

    def get_task_state(self: Any, module: Any = None, ema: bool = False) -> dict[str, Any]:
        """The task's own state and the schedule's; averages have no schedule."""
        state: dict[str, Any] = super().get_task_state(module, ema)  # type: ignore[misc]
        return state if ema else {**state, "lowmode": [net.schedule_state() for net in _nets(self)]}

    def load_task_state(
        self: Any, state: dict[str, Any] | None, strict: bool = True, module: Any = None, ema: bool = False
    ) -> None:
        """Resume from a state of ``get_task_state``."""
        rest = dict(state or {})
        saved = rest.pop("lowmode", [])
        if saved and not ema:
            for net, each in zip(_nets(self), saved, strict=True):
                net.load_schedule_state(each)
        super().load_task_state(rest, strict, module, ema)  # type: ignore[misc]

    def attach(self: Any, optimizer: Any) -> None:
        """Count the optimizer's steps.

        Args:
            optimizer: The optimizer that trains the task.
        """
        attach_to(_nets(self), optimizer)

    def set_epoch(self: Any, epoch: int) -> None:
        """Set the epoch before it begins.

        Args:
            epoch: The epoch, from 0.
        """
        for net in _nets(self):
            net.set_epoch(epoch)


class LowModeTask(_KeepsSchedule, task.ClassificationTask):
    """timm's ``ClassificationTask`` for a net: its checkpoints hold the schedule.

    It takes the arguments of ``ClassificationTask``; averages (``setup_ema``), ``compile`` and ``prepare_distributed``
    are timm's.
    """


def low_mode_task(made: nn.Module) -> Any:
    """Make any ``timm.task.TrainingTask`` for a net save the schedule in its checkpoints.

    Args:
        made: The task.

    Returns:
        The same object, with the methods ``attach(optimizer)`` and ``set_epoch(epoch)`` too.

    Raises:
        ValueError: The task trains no net.
    """
    _nets(made)
    kind = type(made)
    if not isinstance(made, _KeepsSchedule):
        made.__class__ = type(kind.__name__, (_KeepsSchedule, kind), {"__module__": kind.__module__})
    return made


def _nets(made: Any) -> list[LowModeModel]:
    return nets_in(made.get_trainable_module())
