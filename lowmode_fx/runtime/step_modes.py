"""The mode of each training forward: the schedule's, unless the images of the batch say or need another one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.mode_runner import Place
from lowmode_fx.runtime.recent_modes import RecentModes
from lowmode_fx.runtime.run_position import RunPosition
from lowmode_fx.runtime.shape_guard import ShapeGuard
from passes.wording import sides


class StepModes:
    """Chooses the mode of a training forward when it begins, and remembers it for recomputations.

    ``downsample_on``: on the host, the size of the images shows the mode of a batch.
    """

    def __init__(self, ladder: Ladder, position: RunPosition, guard: ShapeGuard, downsample_on: Place) -> None:
        self._ladder = ladder
        self._position = position
        self._guard = guard
        self._on_host = downsample_on == "host"
        self._recent = RecentModes()
        #: Step, epoch and mode of the last forward that began.
        self._last: tuple[int, int, Mode] | None = None
        self._warned = False

    def choose(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mode:
        """The mode of a forward with these arguments, which are a batch.

        Raises ``ValueError`` if a loader gives images of a size that no mode takes.
        """
        position, inputs = self._position, self._ladder.inputs
        waits = position.counter.waits
        due = Mode.FULL if waits else position.mode_at(position.step, position.epoch)
        if self._on_host:
            mode = mode_by_size(self._ladder, inputs.first_image(args, kwargs), due)
            self._guard.note_mode(mode, due, position.step)
            return mode
        fits = due is Mode.FULL or self._guard.fits_batch(due, inputs.first_image(args, kwargs))
        return due if fits else Mode.FULL

    def begin(self, mode: Mode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A forward with these arguments begins in ``mode``, and is counted."""
        position = self._position
        if position.counter.has_stepped:
            self._recent.clear()
        self._recent.note(mode, args, kwargs)
        self._note_mixture(mode)
        if not position.counter.waits:
            position.reminder.training(position.schedule, position.step, position.epoch)
        position.counter.count_forward()

    def _note_mixture(self, mode: Mode) -> None:
        """Warn once if an epoch began between the batches of one optimizer step, and with it another mode."""
        step, epoch = self._position.step, self._position.epoch
        last, self._last = self._last, (step, epoch, mode)
        if last is None or self._warned or last[0] != step or last[1] == epoch or last[2] is mode:
            return
        self._warned = True
        warnings.warn(
            f"batches of one optimizer step ran in {last[2]}-mode and in {mode}-mode: epoch {epoch} began between "
            "them; end an epoch with an optimizer step, as with a multiple of the accumulated batches",
            stacklevel=5,
        )

    def recomputed(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mode | None:
        """The mode in which a forward that is recomputed ran first; ``None`` if there was none."""
        return self._recent.mode_of(args, kwargs)


def mode_by_size(ladder: Ladder, images: Tensor, due: Mode) -> Mode:
    """The mode of a batch that a loader may have downsampled; if several modes have its size, the one due.

    Raises ``ValueError`` if no mode has it.
    """
    sizes = {mode: ladder.mode_inputs(mode).image.shape[2:] for mode in (due, Mode.FULL, *ladder.modes[:-1])}
    for mode, size in sizes.items():
        if tuple(images.shape[2:]) == size:
            return mode
    del sizes[Mode.FULL]
    low = " or ".join(dict.fromkeys(sides(size) for size in sizes.values()))
    full = sides(ladder.inputs.image.shape[2:])
    found = sides(images.shape[2:])
    raise ValueError(
        f"images are {found}; downsample_on='host' needs {full} for a full step or {low} for a low one, as "
        "the modes were built for: build them with an example of your size"
    )
