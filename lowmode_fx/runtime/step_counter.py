"""Which step of a run it is: counted by the steps that the model's weights take."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from lowmode_fx.runtime.optimizers import unwrapped
from lowmode_fx.runtime.saved_schedule import SavedSchedule

#: So many training forwards without a step of an attached optimizer are more than gradient accumulation.
MOST_FORWARDS = 20


class StepCounter:
    """Counts training forwards, or, once an optimizer is attached, the steps that optimizers take on the weights.

    An optimizer that steps on the weights is attached by that. Of steps that follow one forward (several optimizers
    that step together) the first counts. A step without a forward before it, as loading a state may take, does not.

    ``waits``: a copy's counter counts nothing until an optimizer trains the copy.
    """

    def __init__(self, parameters: Callable[[], Iterable[nn.Parameter]], saved: SavedSchedule | None = None) -> None:
        """parameters: gives the weights as they are now. saved: what saves the step with an optimizer."""
        self.step = 0
        self.attached = False
        self.waits = False
        self._parameters = parameters
        self._saved = saved
        self._forwards = 0
        self._warned = False
        _watch(self)

    @property
    def has_stepped(self) -> bool:
        """Whether no forward has come since the last step."""
        return not self._forwards

    def attach(self, optimizer: Any) -> None:
        """Count the steps of ``optimizer``, and of any other that steps on the weights.

        Raises ``TypeError`` where it is no optimizer, nor wraps one.
        """
        found = unwrapped(optimizer)
        self.attached = True
        self.waits = False
        self._forwards = 0
        if self._saved is not None:
            told = [self._saved.travel_with(each) for each in found]
            self._saved.is_lost &= not any(told)  # a wrapper and what it wraps have one state

    def go_on_from(self, step: int) -> None:
        """Of a run that has taken ``step`` steps, the next forward is the first."""
        self.step = step
        self._forwards = 0
        if self._saved is not None:
            self._saved.is_lost = False

    def count_forward(self) -> None:
        """A forward that a step may follow has begun."""
        self._forwards += 1
        if self.waits:
            return
        if self._saved is not None and self._saved.is_lost:
            self._saved.is_lost = False
            if self.step == 0:
                warnings.warn(
                    "the optimizer goes on from earlier steps and the schedule starts at step 0, for nothing that was "
                    "loaded tells of it; net.load_schedule_state({'step': ..., 'epoch': ...}) says where it stands",
                    stacklevel=4,
                )
        if not self.attached:
            self.step += 1
        elif self._forwards > MOST_FORWARDS and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._forwards} training forwards and no step of an optimizer on the model's weights since: the "
                "mode stays the same until one; attach the optimizer that trains the model (net.attach)",
                stacklevel=4,
            )

    def count_step(self, optimizer: Optimizer) -> None:
        """``optimizer`` has taken a step."""
        if not self._forwards or not self._trains(optimizer):
            return
        if self.waits or not self.attached:
            self._notice()
        if self._saved is not None and self._saved.travel_with(optimizer):
            warnings.warn(
                "the optimizer's state told where the schedule stands, after the first step: attach the optimizer "
                "before that (net.attach)",
                stacklevel=4,
            )
        self._forwards = 0
        self.step += 1

    def _notice(self) -> None:
        """The first step of an optimizer that nobody has attached."""
        forwards = self._forwards
        if not self.waits:
            self.step -= forwards
        if self.waits or forwards > 1:
            told = "ran in full-mode, for this is a copy" if self.waits else "had modes of their own"
            warnings.warn(
                f"{forwards} training forward{'s' * (forwards > 1)} before the first step of an optimizer {told}: "
                "attach the optimizer before them (net.attach)",
                stacklevel=5,
            )
        self.attached, self.waits = True, False

    def _trains(self, optimizer: Optimizer) -> bool:
        theirs = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return any(id(parameter) in theirs for parameter in self._parameters())

    def __deepcopy__(self, memo: dict[int, Any]) -> StepCounter:
        raise TypeError("a step counter belongs to one model; its copy makes its own")


def _watch(counter: StepCounter) -> None:
    """Tell ``counter`` of every optimizer's steps for as long as it lives."""
    known = weakref.ref(counter)

    def stepped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found = known()
        if found is not None:
            found.count_step(optimizer)

    handle = register_optimizer_step_post_hook(stepped)
    weakref.finalize(counter, handle.remove)
