"""Images that a mode's graph is not for, and slower ways that a model takes by surprise: refused, or warned of once."""

from __future__ import annotations

import warnings
from collections import Counter

from torch import Tensor

from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from passes.wording import sides

Shapes = tuple[tuple[int, ...], ...]


class ShapeGuard:
    """Refusals, and warnings that are given once, of one ``LowModeModel``."""

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder
        self._warned: set[str] = set()
        self._mismatches: Counter[Mode] = Counter()

    def check_size(self, mode: Mode, images: Tensor, downsampled: bool) -> None:
        """A graph that holds for one size may contain what the model computed from it: refuse another size.

        So may one that brings back what it returns to a size of full-mode.

        downsampled: whether ``images`` have the mode's size already. Raises ``ValueError``.
        """
        report, config = self._ladder.rung(mode).report, self._ladder.rung(mode).config
        if report.any_size and not config.restore_output:
            return
        expected = (self._ladder.mode_inputs(mode) if downsampled else self._ladder.inputs).image.shape[2:]
        if tuple(images.shape[2:]) != tuple(expected):
            raise ValueError(
                f"{report.front_end}'s graph of {report.model} is for {sides(expected)} images alone, and these are "
                f"{sides(images.shape[2:])}; build a pair with an example of their size, or leave front_end out"
            )

    def note_shapes(self, mode: Mode, shapes: Shapes, compiled: Shapes) -> None:
        """Warn where one batch after the other has other shapes than its mode was compiled for."""
        if shapes == compiled:
            self._mismatches[mode] = 0
            return
        self._mismatches[mode] += 1
        if self._mismatches[mode] > 1:  # one alone is a ragged last batch
            ours, theirs = next(pair for pair in zip(compiled, shapes, strict=True) if pair[0] != pair[1])
            self._warn_once(
                f"{mode} shape",
                f"{mode}-mode was compiled for images {sides(ours)}, the first that it saw, and runs "
                f"uncompiled, slower, on {sides(theirs)}; make the first training forward with your own batch size",
            )

    def fits_batch(self, mode: Mode, images: Tensor) -> bool:
        """Whether a mode can normalise so many images ``(N, C, *S)``; warns where it can't."""
        least = 1 if mode is Mode.FULL else self._ladder.rung(mode).report.least_batch
        if len(images) >= least:
            return True
        self._warn_once(
            "batch",
            f"a batch of {len(images)} image has no batch statistics on {mode}-mode's 1×1 maps, and runs in full-mode; "
            "drop_last=True leaves such batches out",
        )
        return False

    def note_mode(self, drawn: Mode, due: Mode, step: int) -> None:
        """Warn where a loader's batch is of another mode than the schedule's."""
        if drawn is not due:
            self._warn_once(
                "mode",
                f"the loader drew {drawn}-mode for step {step}, where the schedule says {due}-mode: tell "
                "host_loader the batches of each optimizer step (accumulation), and the net each epoch (set_epoch)",
            )

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=4)
