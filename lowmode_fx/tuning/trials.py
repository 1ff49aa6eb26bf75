"""Measures low-mode: a short full-mode run, gradients at some points of it, and trial runs against it."""

from __future__ import annotations

import bisect
import copy
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lowmode_fx.capture.capture import capture
from lowmode_fx.capture.images import Argument
from lowmode_fx.lowering import networks
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.batch_growth import BatchGrowth
from lowmode_fx.runtime.optimizers import check_steps_alone, has_any_of
from lowmode_fx.tuning.agreement import Criterion, batch_loss, mode_gradient
from lowmode_fx.tuning.batches import Batch, Call, joined, read_batch, read_batches, split_batch
from lowmode_fx.tuning.costs import OptimizerFactory
from lowmode_fx.tuning.gain import StepProgress, gradient_products, step_progress
from lowmode_fx.tuning.growth import SAME, JoinError, scaled_rate, times
from lowmode_fx.tuning.trial_batches import first_batches, run_batches
from lowmode_fx.utils.losses import as_criterion
from passes.preserve import preserve_generators, preserve_state, train_mode
from passes.spelling import setting

#: Share of a trial run's steps that is full, so that the compared network has adapted to full-mode.
FULL_SHARE = 1 / 3
#: Number of places, an eighth of a trial run's full steps apart, where its loss is looked up.
_LOOKS = 5
#: A loss that is this many times the first one is divergence, not noise.
DIVERGED = 10.0


class DivergedError(ValueError):
    """A short run whose loss diverged, so that nothing can be measured."""


@dataclass
class Point:
    """The weights after ``step`` full steps, and the flat full gradients ``(P,)`` of the probe's batches there."""

    step: int
    state: dict[str, Tensor]
    full: list[Tensor] = field(repr=False)


class Probe:
    """Measures the gain of low steps of any pair over ``model``, at points of a short full-mode run.

    model: a copy of it is trained. batches: gradients and losses are measured on the first ``kept`` of them, at least
    two; the others are trained on, repeatedly if necessary. If a loader shuffles, later passes train on the measured
    images too. autocast: dtype of forwards, as in the run. images: what holds images in a batch, as in ``capture``.

    ``captured``: the copy, for pairs over it. Memory: a copy of the weights and ``kept`` gradients for each point, on
    the model's device.

    Raises ``ValueError`` for invalid batches, for an iterator that can be used only once, for fewer than two batches,
    and what ``capture`` raises.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        criterion: Criterion,
        optimizer: OptimizerFactory,
        kept: int = 6,
        autocast: torch.dtype | None = None,
        images: Argument | Iterable[Argument] | None = None,
    ) -> None:
        self.criterion, self.optimizer, self.autocast = as_criterion(criterion), optimizer, autocast
        self.model = copy.deepcopy(model)
        self._full, self._source = networks.FullNetwork(self.model), batches
        first = first_batches(batches, kept)
        self.captured = capture(self.model, split_batch(first[0])[0], images=images)
        self.batches = [self._read(batch) for batch in first]
        made = optimizer(self.model.parameters())
        _check_steps_on(made, self.model)
        check_steps_alone(made, "give another: lambda weights: torch.optim.SGD(weights, lr=0.05)")
        self.momentum = momentum_of(made)
        self.points: list[Point] = []
        #: The loss of the kept batches, by number of full steps.
        self.losses: dict[int, float] = {}
        self._start = self._state()

    def run(self, steps: Sequence[int], on_step: Callable[[int], bool] = lambda step: True) -> int:
        """Train in full-mode; a point after each of ``steps`` (rising), the loss at eight times as many places.

        ``on_step(step)`` is called after every step and ends the run by ``False``, with a last point. Returns the last
        step.
        """
        last = max(steps)
        places = {round(last * (index + 1) / (8 * len(steps))) for index in range(8 * len(steps))}
        self.losses = {0: self.loss()}
        step = 0
        for step in self._train([None] * last):
            go_on = on_step(step)
            if step in steps or not go_on:
                self._add_point(step)
            if step in places or not go_on:
                self.losses[step] = self.loss()
                self._require_sane(step)
            if not go_on:
                break
        return step

    def _require_sane(self, step: int) -> None:
        """Raises ``DivergedError`` if the loss is NaN, or ten times the first."""
        first, now = self.losses[0], self.losses[step]
        if not math.isfinite(now) or now > DIVERGED * first:
            raise DivergedError(
                f"the short full run diverged: its loss was {first:.3g}, and after {step} steps {now:.3g}; "
                f"give a smaller {setting('lr')}"
            )

    def trial_run(
        self, pair: ModePair, steps: int, weight: float = 1.0, repeat: int = 0, growth: BatchGrowth = SAME
    ) -> float:
        """A low step's gain, in full steps, by training: low steps from the start, then a third of full ones.

        The final loss is looked up in the full run's curve, which needed a certain number of steps for it: the gain is
        about 1 if the loss is as low as that run's after ``steps`` steps; negative if low steps did harm. Losses are
        noisy from step to step, so the mean is taken over several of the last full steps. ``weight``: of the low
        gradients. ``repeat``: 0 trains on the full run's batches, others on later ones, with other random numbers.
        ``growth``: images of a low step over those of a full one; the run then sees as many images in fewer low steps,
        and the gain is that of as many images as a full step has.
        """
        self.model.load_state_dict(self._start)
        full_steps = max(1, round(steps * FULL_SHARE))
        low_steps = max(1, round((steps - full_steps) / times(growth)))
        unit = low_steps * times(growth)  # images of the low steps, in those of full ones
        places = {low_steps + full_steps - round(full_steps * part / 8) for part in range(_LOOKS)}
        gains = []
        for step in self._train([_low(pair)] * low_steps + [None] * full_steps, weight, repeat, growth):
            if step in places:
                gains.append((self._steps_to(self.loss()) - (step - low_steps)) / unit)
        return min(1.0, statistics.fmean(gains))

    def progress(self, pair: ModePair) -> tuple[StepProgress, ...]:
        """The gain of a low step of ``pair``, which is over the probe's model, at each point, by its gradients."""
        found = []
        for point in self.points:
            self.model.load_state_dict(point.state)
            found.append(step_progress(gradient_products(point.full, self.low_gradients(pair)), self.momentum))
        return tuple(found)

    def loss(self) -> float:
        """The mean full-mode loss of the kept batches, by batch statistics."""
        with preserve_state(self.model, parameters=True), train_mode(self.model), torch.no_grad():
            torch.manual_seed(0)  # the same dropout in every compared run
            return statistics.fmean(
                float(batch_loss(self._full, batch, self.criterion, self.autocast)) for batch in self.batches
            )

    def _train(
        self,
        low_steps: Sequence[networks.Network | None],
        weight: float = 1.0,
        repeat: int = 0,
        growth: BatchGrowth = SAME,
    ) -> Iterator[int]:
        """One optimizer step per item, low if the item is a low network; yields the number of steps so far."""
        stepper = self.optimizer(self.model.parameters())
        taken = sum(math.ceil(growth.multiplier(Mode.FULL if low is None else Mode.LOW)) for low in low_steps)
        source = run_batches(self._source, len(self.batches), taken, repeat)
        with preserve_generators(self.model), train_mode(self.model):
            torch.manual_seed(repeat)
            for step, low in enumerate(low_steps, start=1):
                network, mode = (self._full, Mode.FULL) if low is None else (low, Mode.LOW)
                loss = batch_loss(network, self._next(source, growth, mode), self.criterion, self.autocast)
                (loss if low is None else weight * loss).backward()
                with scaled_rate(stepper, growth.rate_factor(mode)):
                    stepper.step()
                stepper.zero_grad()
                network.settle()
                yield step

    def _next(self, source: Iterator[Batch], growth: BatchGrowth, mode: Mode) -> Call:
        first = self._read(next(source))
        more = math.ceil(growth.multiplier(mode)) - 1
        if not more:
            return first
        whole = joined([first, *map(self._read, itertools.islice(source, more))], growth.size(mode, first.images))
        if whole is None:
            raise JoinError("batches can't be joined")
        return whole

    def _steps_to(self, loss: float) -> float:
        """The number of full steps to this loss, by interpolation of the falling envelope of the full run's losses."""
        steps = sorted(self.losses)
        values = [self.losses[step] for step in steps]
        # Each averaged with its neighbours, except the start: the effect of one batch on the loss is noise.
        smooth = [statistics.fmean(values[max(1, index - 1) : index + 2]) for index in range(1, len(values))]
        falling = list(itertools.accumulate([values[0], *smooth], min))
        if not loss < falling[0]:  # also if it is NaN
            return 0.0
        place = bisect.bisect_left([-value for value in falling], -loss)
        if place == len(falling):
            return float(steps[-1])
        above, below = falling[place - 1], falling[place]
        return steps[place - 1] + (steps[place] - steps[place - 1]) * (above - loss) / (above - below)

    def _add_point(self, step: int) -> None:
        with train_mode(self.model):
            full = [
                flat_gradient(self._full, batch, self.criterion, self.model, self.autocast) for batch in self.batches
            ]
        self.points.append(Point(step, self._state(), full))

    def low_gradients(self, pair: ModePair) -> list[Tensor]:
        """The flat low gradients ``(P,)`` of the kept batches, at the weights as they are."""
        with train_mode(self.model):
            low = _low(pair)
            return [flat_gradient(low, batch, self.criterion, self.model, self.autocast) for batch in self.batches]

    def _read(self, batch: Batch) -> Call:
        return read_batch(batch, self.captured.inputs, self.model)

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def progress_now(
    pair: ModePair,
    batches: Iterable[Batch],
    criterion: Criterion,
    momentum: float,
    autocast: torch.dtype | None = None,
) -> StepProgress:
    """A low step's gain at the current weights, by its gradients; the model is left as it was."""
    calls = read_batches(batches, pair.inputs, pair.model)
    with train_mode(pair.model):
        full, low = (
            [flat_gradient(each, call, criterion, pair.model, autocast) for call in calls]
            for each in (networks.network(pair, Mode.FULL), _low(pair))
        )
    return step_progress(gradient_products(full, low), momentum)


def flat_gradient(
    network: networks.Network, batch: Call, criterion: Criterion, model: nn.Module, autocast: torch.dtype | None = None
) -> Tensor:
    """A whole gradient as one vector ``(P,)``."""
    return torch.cat([gradient.flatten() for gradient in mode_gradient(network, batch, criterion, model, autocast)])


def _low(pair: ModePair) -> networks.Network:
    """Low-mode for images of full size."""
    return networks.network(pair, Mode.LOW, downsample=True)


def _check_steps_on(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer of other weights than those that its factory got: it would train nothing here."""
    if not has_any_of(optimizer, model.parameters()):
        raise ValueError(
            "optimizer made one of other weights than it was given, which are those of a copy of the model; give a "
            "function of them: lambda weights: torch.optim.SGD(weights, lr=0.05)"
        )


def momentum_of(optimizer: torch.optim.Optimizer) -> float:
    """β of the optimizer's average of gradients; 0 if it has none."""
    group = optimizer.param_groups[0]
    return float(group.get("momentum", group.get("betas", (0.0,))[0]))
