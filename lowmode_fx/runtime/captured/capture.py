"""Decides when a step is recorded, replayed, or neither: each kind is captured after two warm-up steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.captured.arithmetic import Batch, StepArithmetic
from lowmode_fx.runtime.captured.budget import Budget
from lowmode_fx.runtime.captured.changes import Changes
from lowmode_fx.runtime.captured.complaints import cause_of, warn
from lowmode_fx.runtime.captured.graphs import Graphs
from lowmode_fx.runtime.captured.kinds import Kind, Kinds, Progress
from lowmode_fx.runtime.captured.nets import SteppedNet
from lowmode_fx.runtime.captured.recorded import Place, gradients_of
from lowmode_fx.runtime.captured.room import Room
from lowmode_fx.runtime.captured.runs import StepRuns
from lowmode_fx.runtime.captured.signature import Signature, StaticBatch, flatten, versions
from lowmode_fx.runtime.captured.updates import Updates
from lowmode_fx.runtime.captured.watch import Watch

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
        self._device = device
        self._updates = Updates(net, arithmetic, device)
        self._runs = StepRuns(net, arithmetic, self._updates, graphs, device)
        self._changes = Changes(net, arithmetic)
        self._budget = Budget()
        self._kinds = Kinds()
        self._room = Room(self._kinds)
        self._static: dict[Signature, StaticBatch] = {}
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
        return len(self._kinds.recorded())

    def run(self, batch: Batch, place: Place) -> Tensor:
        """The loss of one batch, whose gradients are accumulated or, at the last place, applied."""
        mode = self._net.begin_step(batch.args, batch.kwargs)
        self._net.settle()
        self._notice_changes()
        self._updates.write_rates()
        progress, leaves = self._progress(mode, batch, place)
        if progress is None:
            return self._run_eagerly(mode, batch, place)
        watch = self._changes.watch
        if watch is None:  # until the first optimizer step
            progress.runs = 1
            return self._run_eagerly(mode, batch, place)
        progress.runs += 1
        if progress.runs == 2:
            before = versions(leaves, self._device)
            rehearse = self._rehearse if self._doubt is None else self._rehearse_in_parts
            loss = rehearse(watch, mode, batch, place)
            if versions(leaves, self._device) != before:  # a replay would write to its own copy
                self.refuse(f"a step in {mode}-mode writes to the batch that it is given, in place; give it a copy")
            return loss
        graded = self._arithmetic.graded()
        gradients = gradients_of(graded)
        fits = progress.fits(gradients)
        if not fits and progress.runs > 2 and self._begins_recorded(progress, gradients) and self._has_room(progress):
            self._capture(progress, leaves, watch.generators)
            fits = progress.fits(gradients)
        if fits and progress.recorded is not None:
            self._budget.replays += 1
            return self._runs.replay(progress.recorded, leaves, graded, place)
        if progress.runs == 1:
            self._room.note_new(progress)
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
                warn(_of_other_starts(kind))
            return False
        if kind.place.first:
            clean = all(gradient is None for gradient in gradients[: len(self._arithmetic.trained())])
            if not clean and not self._leftovers_told:
                self._leftovers_told = True
                warn(
                    "parameters have gradients before a step, so it runs uncaptured and adds to them; clear them first"
                )
            return clean
        return self._kinds.begins(kind.mode, gradients)

    def _has_room(self, progress: Progress) -> bool:
        """Whether this kind may be recorded; another one is given up for it if need be."""
        given_up = self._room.make(progress, self._budget)
        if given_up is None:
            return False
        for signature in given_up:
            self._static.pop(signature, None)
        return True

    def refuse(self, cause: str) -> None:
        """Stop capturing, and warn why."""
        self.refusal = cause
        self._forget()
        warn(
            f"training steps run uncaptured, which is slower on a GPU: {cause}; give capture=False if that is intended"
        )

    def _run_eagerly(self, mode: Mode, batch: Batch, place: Place) -> Tensor:
        loss = self._runs.eagerly(mode, batch, place)
        if self._changes.watch is None and self.refusal is None and place.last:
            self._changes.look(with_criterion=self._doubt is None, with_optimizer=self.outside is None)
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
            self._budget.note_recording(self.captures)
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
        return self._kinds.find(mode, place, signature), leaves

    def _notice_changes(self) -> None:
        """Drop recordings if a step would compute something else now."""
        change = self._changes.found()
        if change is None:
            return
        self._forget()
        self._budget.note_change()
        if change.for_good:
            self._step_outside(change.what)
        elif not self._budget.allows() and change.of_optimizer:
            self._budget = Budget()
            self._step_outside(change.what)
        elif not self._budget.allows():
            self.refuse(change.what)

    def _step_outside(self, cause: str) -> None:
        self._updates.outside = cause
        self._changes.optimizer_watch = None
        warn(f"the optimizer step runs in Python after each replay: {cause}")

    def _forget(self) -> None:
        self._kinds.clear()
        self._static.clear()
        self._runs.forget()
        self._changes.forget()


def _of_other_starts(kind: Kind) -> str:
    if not kind.place.first:
        told = "batches of one step give gradients to other parameters each time, so later ones"
        return f"{told} in {kind.mode}-mode run uncaptured; let all batches use the same layers"
    return (
        "parameters that the optimizer doesn't step on have other gradients in each step, so steps in "
        f"{kind.mode}-mode run uncaptured; freeze them, or clear them before each step"
    )
