"""Counts the steps of a run by the optimizer steps that the model's weights take."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lowmode_fx.runtime.optimizer_hooks import call_after_steps
from lowmode_fx.runtime.optimizers import check_trains, has_any_of, unwrapped
from lowmode_fx.runtime.saved_schedule import SavedSchedule
from lowmode_fx.runtime.taken_steps import TakenSteps

#: More training forwards than this without a step of an attached optimizer are not gradient accumulation.
MOST_FORWARDS = 20
#: More steps than this without a training forward are not those of several optimizers.
MOST_STEPS = 20


class StepCounter:
    """Counts training forwards or, once an optimizer is attached, the steps that optimizers take on the weights.

    An optimizer that steps on the weights is attached automatically. If several steps follow one forward (several
    optimizers that step together), the first counts. A step without a forward before it, as loading a state dict may
    take, does not, nor does one that an optimizer or a gradient scaler skips. ``waits``: a copy's counter counts
    nothing until an optimizer trains the copy.
    """

    def __init__(self, parameters: Callable[[], Iterable[nn.Parameter]], saved: SavedSchedule | None = None) -> None:
        """``parameters``: returns the current weights. ``saved``: saves the step with an optimizer."""
        self.step = 0
        self.attached = False
        self.waits = False
        self._parameters = parameters
        self._saved = saved
        self._forwards = 0
        self._paused = False
        self._warned = False
        self._steps_alone = 0
        call_after_steps(self)

    @property
    def has_stepped(self) -> bool:
        """Whether no forward has run since the last step."""
        return not self._forwards

    def attach(self, optimizer: Any) -> None:
        """Count the steps of ``optimizer``, and of any other that steps on the weights.

        Raises ``TypeError`` if it is neither an optimizer nor a wrapper of one, ``ValueError`` if it has no weights of
        the model.
        """
        found = unwrapped(optimizer)
        check_trains(optimizer, self._parameters())
        self.attached = True
        self.waits = False
        self._forwards = 0
        if self._saved is not None:
            told = [self._saved.travel_with(each) for each in found]
            self._saved.is_lost &= not any(told)  # a wrapper and the wrapped optimizer have one state

    def go_on_from(self, step: int) -> None:
        """Continue a run that has taken ``step`` steps; the next forward is the first."""
        self.step = step
        self._forwards = 0
        if self._saved is not None:
            self._saved.is_lost = False

    def count_forward(self) -> None:
        """A forward that a step may follow has begun."""
        self._forwards += 1
        self._steps_alone = 0
        if self.waits:
            return
        if self._saved is not None and self._saved.is_lost:
            self._saved.is_lost = False
            if self.step == 0:
                warnings.warn(
                    "the optimizer resumes but the schedule starts at step 0: no loaded state dict has the schedule's "
                    "state; call net.load_schedule_state({'step': ..., 'epoch': ...}) to set it",
                    stacklevel=5,
                )
        if not self.attached:
            self.step += 1
        elif self._forwards > MOST_FORWARDS and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._forwards} training forwards without a step on the model's weights, so the mode "
                "never changes; attach the optimizer that trains the model (net.attach)",
                stacklevel=5,
            )

    def after_step(self, optimizer: Optimizer, taken: TakenSteps) -> None:
        """``optimizer`` has stepped."""
        if self._paused:
            return
        if not self._forwards:
            self._count_alone(optimizer)
        elif self.trains(optimizer) and taken.has_taken(optimizer):
            self.count_own_step(optimizer)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, no step is counted: who steps there counts by ``count_own_step``."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def count_own_step(self, optimizer: Optimizer) -> None:
        """``optimizer``, which steps on the weights, has taken a step."""
        if not self._forwards:
            self._count_alone(optimizer)
            return
        if self.waits or not self.attached:
            self._notice()
        if self._saved is not None and self._saved.travel_with(optimizer):
            warnings.warn(
                "the schedule's state was restored from the optimizer only after the first step; attach the optimizer "
                "before it (net.attach)",
                stacklevel=5,
            )
        self._forwards = 0
        self.step += 1

    def _count_alone(self, optimizer: Optimizer) -> None:
        """A step without a training forward before it, as of the second of two optimizers, or of another model's."""
        self._steps_alone += 1
        if self._steps_alone <= MOST_STEPS or self._warned or not self.attached:
            return
        if not self.trains(optimizer):
            self._steps_alone = 0
        else:
            self._warned = True
            warnings.warn(
                f"{self._steps_alone} optimizer steps without a training forward of the net, so no step is "
                "low: the net is in eval mode, or the model is called itself; call net.train(), and net(images)",
                stacklevel=6,
            )

    def _notice(self) -> None:
        """The first step of an optimizer that was not attached."""
        forwards = self._forwards
        if not self.waits:
            self.step -= forwards
        if self.waits or forwards > 1:
            told = "ran in full-mode, since this is a copy" if self.waits else "counted as steps"
            warnings.warn(
                f"{forwards} training forward{'s' * (forwards > 1)} before the first optimizer step {told}; "
                "attach the optimizer before training (net.attach)",
                stacklevel=6,
            )
        self.attached, self.waits = True, False

    def trains(self, optimizer: Optimizer) -> bool:
        """Whether ``optimizer`` steps on the weights; on those of a copy, which it may only hold, with gradients."""
        return has_any_of(optimizer, (each for each in self._parameters() if each.grad is not None or not self.waits))

    def __deepcopy__(self, memo: dict[int, Any]) -> StepCounter:
        raise TypeError("a step counter can't be copied: it belongs to one model; make another one")
