"""The ways in which one step runs: as it is, as a rehearsal of a recording, recorded, and replayed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.captured.accumulators import renew_accumulators
from lowmode_fx.runtime.captured.arithmetic import Batch, StepArithmetic
from lowmode_fx.runtime.captured.graphs import Graphs
from lowmode_fx.runtime.captured.host_state import host_draws
from lowmode_fx.runtime.captured.kinds import Kind
from lowmode_fx.runtime.captured.nets import SteppedNet
from lowmode_fx.runtime.captured.parts import RecordedParts, capture_parts, run_in_parts
from lowmode_fx.runtime.captured.recorded import Place, Recorded, gradients_of
from lowmode_fx.runtime.captured.shared_gradients import SharedGradients
from lowmode_fx.runtime.captured.signature import StaticBatch, move
from lowmode_fx.runtime.captured.updates import Updates
from lowmode_fx.runtime.captured.watch import Watch


class Rehearsed(NamedTuple):
    """``obstacle``: why the step can't be recorded as a whole. ``late``: where the optimizer waits for the device."""

    loss: Tensor
    obstacle: str | None
    late: str | None


class StepRuns:
    """Runs the steps of one training; each but a recording is a real step."""

    def __init__(
        self, net: SteppedNet, arithmetic: StepArithmetic, updates: Updates, graphs: Graphs, device: torch.device
    ) -> None:
        self._net = net
        self._arithmetic = arithmetic
        self._updates = updates
        self._graphs = graphs
        self._device = device
        self._shared = SharedGradients()

    def forget(self) -> None:
        """None of the recordings will be replayed again."""
        self._shared.clear()
        self._graphs.forget()

    def eagerly(self, mode: Mode, batch: Batch, place: Place) -> Tensor:
        """The step as it is. Returns its loss."""
        loss = self._gradients(mode, move(batch, self._device), place)
        if place.last:
            self._updates.take_and_count()
        return loss

    def rehearse(self, watch: Watch, mode: Mode, batch: Batch, place: Place) -> Rehearsed:
        """A step that also shows whether its kind can be recorded."""
        moved, state = move(batch, self._device), self._host_state(watch)
        renew_accumulators(self._arithmetic.parameters())
        loss, waits = self._graphs.rehearse(lambda: self._gradients(mode, moved, place))
        self._net.settle()
        changed, moving = watch.changed(), watch.moved(self._host_state(watch), state)
        late: str | None = None
        if place.last and self._updates.outside is None:
            _, places = self._graphs.rehearse(self._updates.take)
            self._updates.count(self._arithmetic.skipped)
            late = places[0] if places else None
        elif place.last:
            self._updates.take()
        obstacle: str | None = None
        if waits:
            obstacle = f"waits for the device ({waits[0]})"
        elif changed is not None:
            obstacle = f"changes {changed}"
        elif moving is not None:
            obstacle = moving
        return Rehearsed(loss, obstacle and f"a step in {mode}-mode {obstacle}", late)

    def rehearse_in_parts(self, watch: Watch, mode: Mode, batch: Batch, place: Place) -> tuple[Tensor, bool]:
        """As ``rehearse``, with the loss computed in Python between forward and backward.

        Returns the loss, and whether forward and backward can be recorded.
        """
        moved = move(batch, self._device)
        renew_accumulators(self._arithmetic.parameters())
        with self._net.in_mode(mode):
            loss, apart = run_in_parts(self._arithmetic, moved, self._graphs, lambda: self._host_state(watch))
        self._net.settle()
        apart = apart and watch.changed() is None
        if place.last:
            self._updates.take_and_count()
        return loss, apart

    def record(
        self, kind: Kind, static: StaticBatch, generators: list[torch.Generator], in_parts: bool
    ) -> Recorded | RecordedParts:
        """Record a step of this kind on ``static``; the parameters keep the gradients that they have.

        Raises what a device, a compiler or the user's code raises while it is recorded.
        """
        mode, place, _ = kind
        graded = self._arithmetic.graded()
        before = gradients_of(graded)

        def leave() -> None:
            if place.first and not place.last:
                self._shared.move(mode, graded, before)

        def step() -> tuple[Tensor, Tensor | None, Tensor | None]:
            loss = self._gradients(mode, static.batch(), place)
            leave()
            if not place.last or self._updates.outside is not None:
                return loss, None, None
            return loss, *self._updates.record()

        torch.clear_autocast_cache()
        renew_accumulators(self._arithmetic.parameters())
        try:
            if in_parts:
                with self._net.in_mode(mode):
                    return capture_parts(self._arithmetic, static, self._graphs, generators, leave)
            (loss, norm, skipped), replay = self._graphs.capture(step, generators)
            return Recorded(static, replay, loss, norm, skipped, before, gradients_of(graded))
        finally:
            torch.clear_autocast_cache()
            self._net.settle()
            for parameter, gradient in zip(graded, before, strict=True):
                parameter.grad = gradient

    def replay(
        self, recorded: Recorded | RecordedParts, leaves: list[Any], graded: list[Tensor], place: Place
    ) -> Tensor:
        """The step by its recording. Returns its loss."""
        loss = recorded.replay(leaves, graded)
        if place.last and self._updates.outside is None and isinstance(recorded, Recorded):
            self._updates.note_replayed(recorded)
        elif place.last:
            self._updates.take_and_count()
        return loss

    def _gradients(self, mode: Mode, batch: Batch, place: Place) -> Tensor:
        with self._net.in_mode(mode):
            return self._arithmetic.gradients(batch, place.last)

    def _host_state(self, watch: Watch) -> tuple[Any, Any]:
        """What a step may move on the host, unlike a replay."""
        return host_draws(self._device), watch.host.read()
