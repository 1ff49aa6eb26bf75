"""The shape guard: refuses images that a mode's graph is not for, and warns once about slow fallbacks."""

from __future__ import annotations

import warnings
from collections import Counter

from torch import Tensor

from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from passes.wording import sides

Shapes = tuple[tuple[int, ...], ...]


class ShapeGuard:
    """Errors, and one-time warnings, about the input shapes of one ``LowModeModel``."""

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder
        self._least = {rung.mode: rung.report.least_batch for rung in ladder.rungs}
        self._warned: set[str] = set()
        self._mismatches: Counter[Mode] = Counter()

    def check_size(self, mode: Mode, images: Tensor, downsampled: bool) -> None:
        """Refuse images of another size than a fixed-size graph was made for.

        Such a graph may contain values that were computed from the size; with ``restore_output`` it contains
        full-mode's size. ``downsampled``: whether ``images`` have the mode's size already. Raises ``ValueError``.
        """
        report, config = self._ladder.rung(mode).report, self._ladder.rung(mode).config
        if report.any_size and not config.restore_output:
            return
        expected = (self._ladder.mode_inputs(mode) if downsampled else self._ladder.inputs).image.shape[2:]
        if tuple(images.shape[2:]) != tuple(expected):
            raise ValueError(
                f"the {report.front_end} graph of {report.model} is for {sides(expected)} images only, but these are "
                f"{sides(images.shape[2:])}; build the modes with an example of this size, or without front_end"
            )

    def note_shapes(self, mode: Mode, shapes: Shapes, compiled: Shapes) -> None:
        """Warn if consecutive batches have other shapes than their mode was compiled for."""
        if shapes == compiled:
            self._mismatches[mode] = 0
            return
        self._mismatches[mode] += 1
        if self._mismatches[mode] > 1:  # a single one is a ragged last batch
            ours, theirs = next(pair for pair in zip(compiled, shapes, strict=True) if pair[0] != pair[1])
            self._warn_once(
                f"{mode} shape",
                f"{mode}-mode was compiled for images {sides(ours)}, the first shape that it saw, and falls back to "
                f"uncompiled steps, which are slower, on {sides(theirs)}; make the first forward with your batch size",
            )

    def fits_batch(self, mode: Mode, images: Tensor) -> bool:
        """Whether a mode can normalise this many images ``(N, C, *S)``; warns if it can't."""
        if images.shape[0] >= self._least.get(mode, 1):
            return True
        self._warn_once(
            "batch",
            f"a batch of {len(images)} image has no batch statistics on {mode}-mode's 1×1 maps and runs in full-mode; "
            "set drop_last=True to leave such batches out",
        )
        return False

    def note_mode(self, drawn: Mode, due: Mode, step: int) -> None:
        """Warn if a loader's batch has another mode than the schedule's."""
        if drawn is not due:
            self._warn_once(
                "mode",
                f"the loader chose {drawn}-mode for step {step}, but the schedule's is {due}-mode; give "
                "host_loader the batches per optimizer step (accumulation), and call net.set_epoch before each epoch",
            )

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=4)
