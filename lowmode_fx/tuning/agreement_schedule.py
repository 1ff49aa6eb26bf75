"""``AgreementSchedule``: low steps as long as a low step's measured gain is above its cost."""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules import uniform_draw
from lowmode_fx.utils.validation import as_count, as_number, as_probability
from passes.errors import OptionError

if TYPE_CHECKING:  # imported in the functions that measure
    import torch

    from lowmode_fx.lowering.ladder import ModePair
    from lowmode_fx.tuning.agreement import Criterion
    from lowmode_fx.tuning.batches import Batch

#: Maximum share of the steps that measurements may cost.
MOST_OVERHEAD = 0.1


class AgreementSchedule:
    """Steps are low with probability ``p`` as long as low steps pay by the last measurement, otherwise full.

    Every ``every`` steps the gradients of both modes are compared on ``batches`` batches (``measure``). A low step's
    *gain* is the number of full steps that it is equivalent to (see ``lowmode_fx.tuning.gain``); low steps pay if the
    gain is above the cost. Before the first measurement steps are full. A measurement costs about ``batches × (1 +
    cost)`` full steps.

    ``mode`` is pure given the decisions, which ``state_dict()`` holds; ``LowModeModel.schedule_state()`` includes them.
    In a process group rank 0 measures and broadcasts the result, so all ranks agree.

    Args:
        every: Optimizer steps between measurements.
        p: Probability of a low step while low steps pay, in [0, 1].
        batches: Batches per measurement, at least 2.
        cost: Cost of a low step in full steps; ``None`` takes the ratio of multiply-adds.
        full_from: Epoch from which every step is full.
        momentum: Momentum of the optimizer, in [0, 1).
        seed: Seed of the draws, an int from 0 to 2**64 - 1.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or measurements would cost more than a tenth of the steps.
    """

    def __init__(
        self,
        every: int = 500,
        *,
        p: float = 0.9,
        batches: int = 4,
        cost: float | None = None,
        full_from: int | None = None,
        momentum: float = 0.9,
        seed: int = 0,
    ) -> None:
        as_count("batches", batches, 2)  # noise can only be estimated from several batches
        if cost is not None:
            as_number("cost", cost, above=0)
        least = round(2 * batches / MOST_OVERHEAD)
        if every < least:
            problem = f"would spend more than {MOST_OVERHEAD:.0%} of the steps on measuring {batches} batches"
            raise OptionError("every", every, problem, f"give at least {least}")
        self.every, self.p, self.batches, self.cost = every, as_probability("p", p), batches, cost
        self.full_from, self.momentum, self.seed = full_from, momentum, seed
        self._counted: float | None = None
        self._warned = False
        self._steps: list[int] = []
        self._gains: list[float] = []
        self._costs: list[float] = []

    @property
    def varies_by_epoch(self) -> bool:
        """Whether epochs from ``full_from`` on are full."""
        return self.full_from is not None

    @property
    def decisions(self) -> tuple[tuple[int, float, float], ...]:
        """(step, gain, low probability from that step on) of each measurement."""
        rows = zip(self._steps, self._gains, self._costs, strict=True)
        return tuple((step, gain, self.p if gain > cost else 0.0) for step, gain, cost in rows)

    def mode(self, step: int, epoch: int) -> Mode:
        """Return the mode of an optimizer step, by the last measurement at or before it.

        Args:
            step: Optimizer step, from 0 over the whole run.
            epoch: Epoch of the step, from 0.
        """
        place = bisect.bisect_right(self._steps, step) - 1
        if not self._steps and step >= self.every and not self._warned:
            self._warned = True
            warnings.warn(
                f"AgreementSchedule has not measured in {step} steps, so all were full; call "
                "schedule.measure(...) when schedule.due(net.step, net.epoch)",
                stacklevel=2,
            )
        if place < 0 or (self.full_from is not None and epoch >= self.full_from):
            return Mode.FULL
        pays = self._gains[place] > self._costs[place]
        return Mode.LOW if pays and uniform_draw(self.seed, step) < self.p else Mode.FULL

    def due(self, step: int, epoch: int = 0) -> bool:
        """Return whether a measurement is due before a step.

        Args:
            step: The next optimizer step.
            epoch: Its epoch.
        """
        if self.full_from is not None and epoch >= self.full_from:
            return False
        return not self._steps or step >= self._steps[-1] + self.every

    def measure(
        self,
        pair: ModePair,
        batches: Iterable[Batch],
        criterion: Criterion,
        step: int,
        autocast: torch.dtype | None = None,
    ) -> float:
        """Measure on full-size batches, and decide for the steps from ``step`` on.

        The model is left as it was. In a process group every rank must call it; rank 0's batches are used.

        Args:
            pair: The pair that is trained.
            batches: At least ``batches`` batches, as in ``gradient_agreement``.
            criterion: Returns the loss, a scalar.
            step: The next optimizer step.
            autocast: Dtype in which the run computes forwards, if any.

        Returns:
            The gain of a low step, in full steps.

        Raises:
            ValueError: There are too few batches, or rank 0 could not measure.
        """
        from lowmode_fx.tuning.costs import mac_cost

        if self.cost is not None:
            cost = self.cost
        else:
            cost = self._counted = mac_cost(pair) if self._counted is None else self._counted
        measured = partial(self._measured, pair, batches, criterion, autocast)
        gain = _from_rank_0(pair, measured) if _in_group() else measured()
        self.decide(step, gain, cost)
        return gain

    def _measured(
        self, pair: ModePair, batches: Iterable[Batch], criterion: Criterion, autocast: torch.dtype | None
    ) -> float:
        from lowmode_fx.tuning.trials import progress_now

        # At most 1: the estimate has no upper bound if noise dominates the full gradients.
        return min(1.0, progress_now(pair, batches, criterion, self.momentum, autocast).gain)

    def decide(self, step: int, gain: float, cost: float) -> None:
        """Add a measurement, from ``step`` on.

        Args:
            step: Optimizer step from which the decision applies.
            gain: Gain of a low step, in full steps.
            cost: Cost of a low step, in full steps.

        Raises:
            ValueError: The step is before that of the last decision.
        """
        if self._steps and step < self._steps[-1]:
            raise ValueError(f"step={step} is before the last decision; give at least {self._steps[-1]}")
        self._steps.append(step)
        self._gains.append(gain)
        self._costs.append(cost)

    def state_dict(self) -> dict[str, list[Any]]:
        """Return the decisions so far as plain values."""
        return {"steps": list(self._steps), "gains": list(self._gains), "costs": list(self._costs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state dict.

        Args:
            state: The result of ``state_dict()``.

        Raises:
            KeyError: A list is missing.
        """
        self._steps, self._gains, self._costs = (list(state[name]) for name in ("steps", "gains", "costs"))

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments as plain values; decisions are in ``state_dict()``."""
        names = ("every", "p", "batches", "cost", "full_from", "momentum", "seed")
        return {"kind": "agreement"} | {name: getattr(self, name) for name in names}


def _from_rank_0(pair: ModePair, measured: Callable[[], float]) -> float:
    """What rank 0 measures, or its error, on every rank: none may wait for a rank that has failed."""
    import torch.distributed as dist
    from torch.nn import SyncBatchNorm

    if any(isinstance(module, SyncBatchNorm) for module in pair.model.modules()):
        raise ValueError("only rank 0 measures, so a SyncBatchNorm would wait forever for other ranks; use other norms")
    told: list[Any] = [0.0, ""]
    if dist.get_rank() == 0:
        try:
            told[0] = measured()
        except Exception as error:
            told[1] = f"{type(error).__name__}: {error}"
    dist.broadcast_object_list(told, src=0)
    if told[1]:
        raise ValueError(f"the measurement failed on rank 0: {told[1]}")
    return float(told[0])


def _in_group() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
