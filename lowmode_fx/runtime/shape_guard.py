"""What a net in use is told: images that its graphs are not for, and slower ways that it takes by surprise."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.lowering.mode_pair import PairReport


class Cautions:
    """Refusals, and warnings that are given once, of one net."""

    def __init__(self, report: PairReport) -> None:
        self.report = report
        self._told: set[str] = set()
        self._strangers = dict.fromkeys((Mode.LOW, Mode.FULL), 0)

    def check_size(self, images: Tensor, low: bool) -> None:
        """An exported graph may hold what the model computed from its image size, and be right for that size alone.

        ``low``: whether ``images`` are downsampled already. Raises ``ValueError`` for another size.
        """
        report = self.report
        if report.front_end != "export":
            return
        expected = (report.low_input_shape if low else report.input_shape)[2:]
        if tuple(images.shape[2:]) != tuple(expected):
            raise ValueError(
                f"{report.model} was traced by torch.export, for {_sides(expected)} images alone, and these are "
                f"{_sides(images.shape[2:])}; build a pair with an example of their size"
            )

    def note_shape(self, mode: Mode, images: Sequence[int], compiled: Sequence[int]) -> None:
        """Warn where one batch after the other has another shape than its mode was compiled for."""
        if images == compiled:
            self._strangers[mode] = 0
            return
        self._strangers[mode] += 1
        if self._strangers[mode] > 1:  # one alone is a ragged last batch
            self._warn_once(
                f"{mode.value} shape",
                f"{mode.value}-mode was compiled for images {_sides(compiled)}, the first that it saw, and runs "
                f"uncompiled, slower, on {_sides(images)}; make the first training forward with your own batch size",
            )

    def note_mode(self, drawn: Mode, due: Mode, step: int) -> None:
        """Warn where a loader's batch is of another mode than the schedule's."""
        if drawn is not due:
            self._warn_once(
                "mode",
                f"the loader drew {drawn.value}-mode for step {step}, where the schedule says {due.value}-mode: tell "
                "host_loader the batches of each optimizer step (accumulation), and the net each epoch (set_epoch)",
            )

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            warnings.warn(message, stacklevel=4)


def _sides(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
