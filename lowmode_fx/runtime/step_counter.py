"""Which step of a run it is: counted by the steps that the model's weights take."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

#: So many training forwards without a step of an attached optimizer are more than gradient accumulation.
MOST_FORWARDS = 20


class StepCounter:
    """Counts training forwards, or, once an optimizer is attached, the steps that optimizers take on the weights.

    Of steps that follow one forward (several optimizers that step together) the first counts. A step without a forward
    before it, as loading a state may take, does not count.
    """

    def __init__(self, parameters: Callable[[], Iterable[nn.Parameter]]) -> None:
        """parameters: gives the weights as they are now."""
        self.step = 0
        self.attached = False
        self._parameters = parameters
        self._forwards = 0
        self._warned = False
        self._remove_hook: Callable[[], object] | None = None

    def attach(self, optimizer: Any) -> None:
        """Count the steps of ``optimizer``, and of any other that steps on the weights.

        Raises ``TypeError`` where it is no optimizer, nor wraps one.
        """
        while not hasattr(optimizer, "param_groups") and hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        if not hasattr(optimizer, "param_groups"):
            kind = type(optimizer).__name__
            raise TypeError(f"optimizer is a {kind}; give a torch.optim.Optimizer, or what wraps one")
        self.attached = True
        self._forwards = 0
        if self._remove_hook is None:
            self._remove_hook = _watch(self)

    def count_forward(self) -> None:
        """A forward that a step may follow has begun."""
        if not self.attached:
            self.step += 1
            return
        self._forwards += 1
        if self._forwards > MOST_FORWARDS and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._forwards} training forwards and no step of an optimizer on the model's weights since: the "
                "mode stays the same until one; attach the optimizer that trains the model (net.attach)",
                stacklevel=4,
            )

    def count_step(self, optimizer: Optimizer) -> None:
        """``optimizer`` has taken a step."""
        if self._forwards and self._trains(optimizer):
            self._forwards = 0
            self.step += 1

    def _trains(self, optimizer: Optimizer) -> bool:
        theirs = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return any(id(parameter) in theirs for parameter in self._parameters())

    def __deepcopy__(self, memo: dict[int, Any]) -> StepCounter:
        raise TypeError("a step counter belongs to one model; its copy makes its own")


def _watch(counter: StepCounter) -> Callable[[], object]:
    """Tell ``counter`` of every optimizer's steps for as long as it lives."""
    known = weakref.ref(counter)

    def stepped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found = known()
        if found is not None:
            found.count_step(optimizer)

    handle = register_optimizer_step_post_hook(stepped)
    weakref.finalize(counter, handle.remove)
    return handle.remove
