"""Decides when a step is recorded, replayed, or neither: each kind is captured after two warm-up steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.captured.arithmetic import Batch, StepArithmetic
from lowmode_fx.runtime.captured.complaints import cause_of, warn
from lowmode_fx.runtime.captured.graphs import Graphs
from lowmode_fx.runtime.captured.kinds import Kind, Kinds, Progress
from lowmode_fx.runtime.captured.nets import SteppedNet
from lowmode_fx.runtime.captured.optimizer_watch import OptimizerWatch
from lowmode_fx.runtime.captured.rates import why_hooked
from lowmode_fx.runtime.captured.recorded import Place, gradients_of, same_tensors
from lowmode_fx.runtime.captured.runs import StepRuns
from lowmode_fx.runtime.captured.signature import Signature, StaticBatch, flatten
from lowmode_fx.runtime.captured.updates import Updates
from lowmode_fx.runtime.captured.watch import Watch

#: Changes of what a step has read in Python, before steps are no longer captured.
MOST_RESTARTS = 8
#: Changes of an optimizer's options, other than learning rates, before its step is no longer captured.
MOST_OPTIONS = 2
#: Recordings of one kind of step that begin with different gradients.
MOST_STARTS = 4


class CapturedSteps:
    """Runs the batches of a training.

    ``refusal``: why nothing is captured, if so. ``between``: why the loss is not captured, if so: forward and backward
    are, and the optimizer step is not.
    """

    def __init__(self, net: SteppedNet, arithmetic: StepArithmetic, graphs: Graphs, device: torch.device) -> None:
        self.refusal: str | None = None
        self.between: str | None = None
        self._doubt: str | None = None
        self._net = net
        self._arithmetic = arithmetic
        self._graphs = graphs
        self._device = device
        self._updates = Updates(net, arithmetic, device)
        self._runs = StepRuns(net, arithmetic, self._updates, graphs, device)
        self._kinds = Kinds()
        self._static: dict[Signature, StaticBatch] = {}
        self._watch: Watch | None = None
        self._optimizer_watch: OptimizerWatch | None = None
        self._scaling: tuple[Any, ...] = ()
        self._restarts = 0
        self._other_options = 0
        self._leftovers_told = False
        if self.outside is not None:
            self._step_outside(self.outside)

    @property
    def outside(self) -> str | None:
        """Why the optimizer step is not captured, if so."""
        return self._updates.outside

    @property
    def norm(self) -> Tensor | None:
        """Norm of the last step's gradients, if they are clipped."""
        return self._updates.norm

    @property
    def captures(self) -> int:
        """Number of kinds of steps that are recorded now."""
        return sum(progress.recorded is not None for progress in self._kinds.met.values())

    def run(self, batch: Batch, place: Place) -> Tensor:
        """The loss of one batch, whose gradients are accumulated or, at the last place, applied."""
        mode = self._net.begin_step(batch.args, batch.kwargs)
        self._net.settle()
        self._notice_changes()
        self._updates.write_rates()
        progress, leaves = self._progress(mode, batch, place)
        if progress is None:
            return self._run_eagerly(mode, batch, place)
        watch = self._watch
        if watch is None:  # until the first optimizer step
            progress.runs = 1
            return self._run_eagerly(mode, batch, place)
        progress.runs += 1
        if progress.runs == 2 and self._doubt is not None:
            return self._rehearse_in_parts(watch, mode, batch, place)
        if progress.runs == 2:
            return self._rehearse(watch, mode, batch, place)
        graded = self._arithmetic.graded()
        gradients = gradients_of(graded)
        fits = progress.fits(gradients)
        if not fits and progress.runs > 2 and self._begins_recorded(progress, gradients):
            self._capture(progress, leaves, watch.generators)
            fits = progress.fits(gradients)
        if fits and progress.recorded is not None:
            return self._runs.replay(progress.recorded, leaves, graded, place)
        return self._run_eagerly(mode, batch, place)

    def _begins_recorded(self, progress: Progress, gradients: Sequence[Tensor | None]) -> bool:
        """Whether the gradients are those with which a replay of this kind begins, as far as can be told.

        There are none before the first batch of a step; before another batch they are what the first batch's replay has
        left. Parameters that the optimizer doesn't step on may have some, a bounded number of times.
        """
        kind = progress.kind
        if progress.captures >= MOST_STARTS:
            if progress.captures == MOST_STARTS:
                progress.captures += 1
                warn(
                    "parameters that the optimizer doesn't step on have other gradients in each step, so steps in "
                    f"{kind.mode}-mode run uncaptured; freeze them, or clear them before each step"
                )
            return False
        if kind.place.first:
            clean = all(gradient is None for gradient in gradients[: len(self._arithmetic.trained())])
            if not clean and not self._leftovers_told:
                self._leftovers_told = True
                warn(
                    "parameters have gradients before a step, so it runs uncaptured and adds to them; clear them first"
                )
            return clean
        first = self._kinds.recorded_first(kind.mode)
        return first is not None and same_tensors(gradients, first.after)

    def refuse(self, cause: str) -> None:
        """Stop capturing, and warn why."""
        self.refusal = cause
        self._forget()
        warn(
            f"training steps run uncaptured, which is slower on a GPU: {cause}; give capture=False if that is intended"
        )

    def _run_eagerly(self, mode: Mode, batch: Batch, place: Place) -> Tensor:
        loss = self._runs.eagerly(mode, batch, place)
        if self._watch is None and self.refusal is None and place.last:
            self._look()
        return loss

    def _rehearse(self, watch: Watch, mode: Mode, batch: Batch, place: Place) -> Tensor:
        loss, obstacle, late = self._runs.rehearse(watch, mode, batch, place)
        if late is not None:
            self._step_outside(f"the optimizer waits for the device ({late})")
        if obstacle is not None:
            self._try_in_parts(obstacle)
        return loss

    def _try_in_parts(self, cause: str) -> None:
        """The step can't be recorded as a whole: the next ones show whether forward and backward can."""
        if self._arithmetic.criterion is None:
            self.refuse(cause)
            return
        self._doubt = cause
        self._forget()

    def _rehearse_in_parts(self, watch: Watch, mode: Mode, batch: Batch, place: Place) -> Tensor:
        loss, apart = self._runs.rehearse_in_parts(watch, mode, batch, place)
        if not apart:
            self.refuse(self._doubt or self.between or "")
        elif self.between is None:
            self.between = self._doubt
            warn(f"the loss and the optimizer step run in Python, between and after two replays: {self.between}")
        return loss

    def _capture(self, progress: Progress, leaves: list[Any], generators: list[torch.Generator]) -> None:
        kind, in_parts = progress.kind, self._doubt is not None
        static = self._static.get(kind.signature)
        if static is None:
            static = self._static[kind.signature] = StaticBatch(leaves, kind.signature, self._device)
        static.fill(leaves)
        progress.captures += 1
        try:
            progress.recorded = self._runs.record(kind, static, generators, in_parts)
        except Exception as error:  # a device, a compiler or user code may raise anything while it is recorded
            self._arithmetic.forget_half_step()
            cause = f"a step in {kind.mode}-mode can't be recorded: {cause_of(error)}"
            if self._arithmetic.in_criterion:
                self._arithmetic.in_criterion = False
                self._try_in_parts(cause)
            else:
                self.refuse(cause)

    def _progress(self, mode: Mode, batch: Batch, place: Place) -> tuple[Progress | None, list[Any]]:
        if self.refusal is not None:
            return None, []
        try:
            leaves, signature = flatten(batch)
        except TypeError as error:
            self.refuse(f"the batch holds {error}")
            return None, []
        kind = Kind(mode, place, signature)
        progress = self._kinds.find(kind)
        if progress is None and self._kinds.replaces(kind):
            self._restart("the shapes of batches keep changing")
        return progress, leaves

    def _look(self) -> None:
        """Note what steps read in Python, after one has run and left nothing behind."""
        self._net.settle()
        criterion = {"criterion": self._arithmetic.criterion} if self._doubt is None else {}
        self._arithmetic.find_others()
        self._watch = Watch({**self._net.roots(), **criterion})
        if self.outside is None:
            self._optimizer_watch = OptimizerWatch(self._arithmetic.optimizer, self._arithmetic.net.parameters())
        self._scaling = self._arithmetic.scaling()

    def _notice_changes(self) -> None:
        """Drop recordings if a step would compute something else now."""
        changed = self._watch.changed() if self._watch is not None else None
        if changed is not None:
            self._forget()
            self._restart(f"{changed} keeps changing between steps")
        elif self._optimizer_watch is not None:
            hooked = why_hooked(self._arithmetic.optimizer)
            if hooked is not None:
                self._forget()
                self._step_outside(hooked)
                return
            if self._optimizer_watch.loaded() or self._arithmetic.scaling() != self._scaling:
                self._forget()
                return
            option = self._optimizer_watch.changed_option()
            if option is not None:
                self._forget()
                self._other_options += 1
                if self._other_options > MOST_OPTIONS:
                    self._step_outside(f"its {option} keeps changing between steps")

    def _step_outside(self, cause: str) -> None:
        self._updates.outside = cause
        self._optimizer_watch = None
        warn(f"the optimizer step runs in Python after each replay: {cause}")

    def _restart(self, cause: str) -> None:
        self._restarts += 1
        if self._restarts > MOST_RESTARTS:
            self.refuse(cause)

    def _forget(self) -> None:
        self._kinds.clear()
        self._static.clear()
        self._graphs.forget()
        self._watch = None
        self._optimizer_watch = None
