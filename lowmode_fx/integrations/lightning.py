"""Lightning: a callback for a ``LightningModule`` that holds a net."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.integrations.extras import need
from lowmode_fx.integrations.nets import attach_to, nets_in
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.train_step import TrainStep

pytorch: Any = need("lightning.pytorch", "lightning")


class LowModeCallback(pytorch.Callback):
    """Attaches the optimizers, sets the epoch, and saves the schedule in checkpoints.

    Checkpoints hold the schedule in the optimizers' state dicts, so that ``fit(ckpt_path=...)`` resumes it, also in the
    middle of an epoch. Learning-rate and batch-size finders leave the schedule as it was. The pass in which
    ``StochasticWeightAveraging`` gathers statistics runs in full-mode.

    Args:
        log: Log ``low_mode/low`` to the module's loggers (1 for a low step, 0 for a full one; its mean over an epoch is
            the share of low steps), and for each mode ``low_mode/<mode>_loss`` and ``low_mode/<mode>_seconds``, the
            wall time of a batch, which on a GPU is that of its launches.
    """

    def __init__(self, log: bool = True) -> None:
        super().__init__()
        self._log = log
        self._nets: list[LowModeModel] = []
        self._found: list[dict[str, Any]] = []
        self._batch = contextlib.ExitStack()
        self._start = 0.0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Note the state of the schedules, before anything tries out steps."""
        if stage != "fit":
            return
        nets = nets_in(pl_module)
        if nets == self._nets and self._found:  # a finder has left its trial steps here
            self._put_back()
        self._nets, self._found = nets, [net.schedule_state() for net in nets]

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the optimizers, before their state dicts, and so the schedule's state, are restored."""
        self._put_back()
        self._found = []
        for optimizer in trainer.optimizers:
            attach_to(self._nets, optimizer)

    def _put_back(self) -> None:
        for net, state in zip(self._nets, self._found, strict=True):
            net.load_schedule_state(state)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Set the epoch of every net."""
        for net in self._nets:
            net.set_epoch(trainer.current_epoch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Run a batch that no optimizer step follows in full-mode."""
        if getattr(trainer.fit_loop, "_skip_backward", False):
            for net in self._nets:
                self._batch.enter_context(net.full_mode())
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the mode, loss and time of the batch."""
        seconds = time.perf_counter() - self._start
        self._batch.close()
        if not self._log or trainer.logger is None or getattr(trainer.fit_loop, "_skip_backward", False):
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        for place, net in enumerate(self._nets):
            mode, name = net.last_mode, f"low_mode{place or ''}"
            if mode is None:
                continue
            low = float(mode is not Mode.FULL)
            pl_module.log(f"{name}/low", low, on_step=True, on_epoch=True, batch_size=1)
            pl_module.log(f"{name}/{mode}_seconds", seconds, on_step=True, on_epoch=False, batch_size=1)
            if isinstance(loss, Tensor) and loss.numel() == 1:
                value = loss.detach().to(torch.float32)
                pl_module.log(f"{name}/{mode}_loss", value, on_step=True, on_epoch=False, batch_size=1)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave full-mode."""
        self._batch.close()


def captured_step(module: Any, criterion: Any, **options: Any) -> TrainStep:
    """A ``TrainStep`` for a ``LightningModule`` that optimizes by itself; Lightning counts its steps.

    Make it in ``on_train_start`` and call it in ``training_step``: ``loss = self.step(images, labels)``.

    Args:
        module: with ``automatic_optimization = False``, one optimizer and one ``LowModeModel``, which is stepped on.
        criterion: as in ``TrainStep``.
        options: other arguments of ``TrainStep``.

    Raises:
        ValueError: Lightning optimizes too, trains in several processes, or the module holds another number of nets or
            optimizers.
    """
    if module.trainer.world_size > 1:
        raise ValueError(
            f"captured_step does not exchange gradients, and the trainer has {module.trainer.world_size} processes; "
            "return the loss from training_step instead"
        )
    if module.automatic_optimization:
        raise ValueError(
            "automatic_optimization is True, so that Lightning would step too; set it to False in the module's __init__"
        )
    nets, optimizers = nets_in(module), module.optimizers()
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    if len(nets) != 1 or len(optimizers) != 1:
        raise ValueError(
            f"the module holds {len(nets)} nets and {len(optimizers)} optimizers; captured_step steps on one of each"
        )
    (net,), (optimizer,) = nets, optimizers
    after = options.pop("after_step", None)
    # Lightning's own for "16-mixed", which its checkpoints hold.
    options.setdefault("scaler", getattr(module.trainer.precision_plugin, "scaler", None))

    def count() -> None:
        # What Lightning's own optimizer does around its step: global_step, max_steps and checkpoints go by it.
        optimizer._on_before_step()
        optimizer._on_after_step()
        if after is not None:
            after()

    return TrainStep(net, criterion, optimizer.optimizer, after_step=count, **options)
