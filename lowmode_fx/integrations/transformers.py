"""transformers: a callback for ``Trainer(model=net)``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowmode_fx.integrations.extras import need
from lowmode_fx.integrations.nets import attach_to, nets_in
from lowmode_fx.lowering.mode import Mode

transformers: Any = need("transformers", "transformers")


class LowModeCallback(transformers.TrainerCallback):
    """Attaches the optimizer, sets the epoch, logs the share of low steps, and saves the model's configuration.

    Checkpoints hold the schedule with the optimizer, so ``train(resume_from_checkpoint=...)`` resumes it, and the
    model's own weights and configuration, so that its ``from_pretrained`` reads them. ``net.save_pretrained(folder)``
    is the model's own method.
    """

    def __init__(self) -> None:
        self._steps = self._low_steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Attach the optimizer, which has loaded its state dict if a run is resumed."""
        self._nets = nets_in(objects["model"])
        attach_to(self._nets, objects["optimizer"])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Set the epoch of the net."""
        for net in self._nets:
            net.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Count the step by its mode."""
        self._steps += 1
        self._low_steps += any(net.last_mode is not Mode.FULL for net in self._nets)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **objects: Any) -> None:
        """Add the share of low steps since the last log."""
        if logs is not None and self._steps and "loss" in logs:
            for told in (logs, state.log_history[-1]):
                told["low_steps"] = round(self._low_steps / self._steps, 4)
            self._steps = self._low_steps = 0

    def on_save(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Write ``config.json`` next to the weights, like the model's ``save_pretrained``."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for net in self._nets:
            config: Any = getattr(net.ladder.model, "config", None)
            if hasattr(config, "save_pretrained") and state.is_world_process_zero and folder.is_dir():
                config.save_pretrained(folder)
