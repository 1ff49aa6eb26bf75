"""Notices what a step would compute in another way than its recording."""

from __future__ import annotations

from typing import Any, NamedTuple

from lowmode_fx.runtime.captured.arithmetic import StepArithmetic
from lowmode_fx.runtime.captured.nets import SteppedNet
from lowmode_fx.runtime.captured.optimizer_watch import OptimizerWatch
from lowmode_fx.runtime.captured.rates import why_hooked, why_not_captured
from lowmode_fx.runtime.captured.watch import Watch

#: What to do about options that schedulers change in each step.
_CYCLED = dict.fromkeys(("momentum", "betas"), "give cycle_momentum=False to OneCycleLR and CyclicLR")


class Change(NamedTuple):
    """``what``: in words. ``of_optimizer``: only its step is concerned; ``for_good``: which can't be captured now."""

    what: str
    of_optimizer: bool = False
    for_good: bool = False


class Changes:
    """Watches what steps read in Python: the model's and the criterion's part (``watch``), and the optimizer's."""

    def __init__(self, net: SteppedNet, arithmetic: StepArithmetic) -> None:
        self.watch: Watch | None = None
        self.optimizer_watch: OptimizerWatch | None = None
        self._net = net
        self._arithmetic = arithmetic
        self._scaling: tuple[Any, ...] = ()

    def look(self, with_criterion: bool, with_optimizer: bool) -> None:
        """Note everything, after a step that has run and left nothing behind."""
        self._net.settle()
        criterion = {"criterion": self._arithmetic.criterion} if with_criterion else {}
        self._arithmetic.find_others()
        self.watch = Watch({**self._net.roots(), **criterion})
        if with_optimizer:
            self.optimizer_watch = OptimizerWatch(self._arithmetic.optimizer, self._arithmetic.net.parameters())
        self._scaling = self._arithmetic.scaling()

    def forget(self) -> None:
        """Watch nothing until the next look."""
        self.watch = None
        self.optimizer_watch = None

    def found(self) -> Change | None:
        """What has changed since the look, if anything has."""
        changed = self.watch.changed() if self.watch is not None else None
        if changed is not None:
            values = self.watch.values if self.watch is not None else ""
            return Change(f"{changed} keeps changing between steps" + (values and f": {values}"))
        return None if self.optimizer_watch is None else self._of_optimizer(self.optimizer_watch)

    def _of_optimizer(self, watch: OptimizerWatch) -> Change | None:
        hooked = why_hooked(self._arithmetic.optimizer)
        if hooked is not None:
            return Change(hooked, of_optimizer=True, for_good=True)
        loaded, option = watch.loaded(), watch.changed_option()
        if loaded or option is not None:
            refused = why_not_captured(self._arithmetic.optimizer)  # options may have come with the state
            if refused is not None:
                return Change(refused, of_optimizer=True, for_good=True)
        if loaded:
            told = "its state or its parameters are replaced again and again, as by load_state_dict; load them once"
            return Change(told, of_optimizer=True)
        if self._arithmetic.scaling() != self._scaling:
            return Change("options of the gradient scaler keep changing between steps", of_optimizer=True)
        if option is None:
            return None
        hint = _CYCLED.get(option, "let it change less often")
        return Change(f"its {option} keeps changing between steps; {hint}", of_optimizer=True)
