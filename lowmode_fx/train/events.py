"""A run as TensorBoard shows it: loss, accuracy, learning rate, and each mode's share of the steps and seconds."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from lowmode_fx.train.names import EVENTS
from lowmode_fx.train.records import EpochRecord
from passes.wording import first_line


class Events:
    """Writes a run's epochs to ``tensorboard/`` in its folder, by torch's ``SummaryWriter``.

    folder: of the run; ``None`` writes nothing. step: how many steps the run has taken; what lies there of later ones,
    from before a kill, is hidden. say: called once where events can't be written; the run goes on without, as it does,
    silently, where TensorBoard isn't installed. As a context manager it leaves the file whole.
    """

    def __init__(self, folder: Path | None, step: int, say: Callable[[str], None]) -> None:
        self._say = say
        self._writer: Any = None
        self._step = step
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter  # takes two seconds
        except ImportError as error:
            if find_spec("tensorboard") is not None:
                say(f"no events for TensorBoard: it can't be imported: {first_line(error)}")
            return
        self._try(lambda: setattr(self, "_writer", SummaryWriter(str(folder / EVENTS), purge_step=step)))

    def epoch(self, record: EpochRecord) -> None:
        """An epoch that is over."""
        count = sum(record.steps.values())
        self._step += count
        values = {
            "loss/train": record.train_loss,
            "accuracy/validation": record.val_accuracy,
            "learning_rate": record.lr,
            "seconds/epoch": record.seconds,
            **{f"steps/{mode}": steps / count for mode, steps in record.steps.items()},
            **{f"seconds_a_step/{mode}": seconds for mode, seconds in record.step_seconds.items()},
        }
        self._write(values)

    def test(self, accuracy: float) -> None:
        """The accuracy on images that no epoch was validated on."""
        self._write({"accuracy/test": accuracy})

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._try(self._writer.close)
            self._writer = None

    def _write(self, values: dict[str, float]) -> None:
        if self._writer is None:
            return

        def write() -> None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, self._step)
            self._writer.flush()

        self._try(write)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError as error:
            self._writer = None
            self._say(f"no more events for TensorBoard: {first_line(error)}")
