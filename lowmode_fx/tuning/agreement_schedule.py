"""A schedule that follows the evidence: low steps while a low step's measured gain is above its cost."""

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

if TYPE_CHECKING:  # what it measures with is imported where it measures
    import torch

    from lowmode_fx.lowering.ladder import ModePair
    from lowmode_fx.tuning.agreement import Criterion
    from lowmode_fx.tuning.batches import Batch

#: Measuring may take no more than this share of the steps between two measurements.
MOST_OVERHEAD = 0.1


class AgreementSchedule:
    """Steps are low with probability ``p`` while low steps pay, by the last measurement, and full else.

    Every ``every`` steps the gradients of both modes are compared on ``batches`` batches (``measure``): a low step's
    *gain* is how many full steps it stands for, see ``lowmode_fx.tuning.gain``. It pays where gain > ``cost``, what
    it costs in full steps; ``None`` takes the ratio of multiply-adds. From epoch ``full_from`` on every step is full.
    Before the first measurement steps are full. A measurement costs about ``batches × (1 + cost)`` full steps.

    ``mode`` is pure given the decisions, which ``state_dict()`` holds: ``LowModeModel.schedule_state()`` carries them.
    In a process group rank 0 measures and tells the others, so all ranks agree.

    Raises ``ValueError`` for values out of range, and where measuring would take more than a tenth of the steps.
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
        as_count("batches", batches, 2)  # noise shows between batches only
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
    def decisions(self) -> tuple[tuple[int, float, float], ...]:
        """(step, gain, low probability from that step on) of each measurement."""
        rows = zip(self._steps, self._gains, self._costs, strict=True)
        return tuple((step, gain, self.p if gain > cost else 0.0) for step, gain, cost in rows)

    def mode(self, step: int, epoch: int) -> Mode:
        """The mode of global optimizer step ``step`` in ``epoch``, by the last measurement at or before it."""
        place = bisect.bisect_right(self._steps, step) - 1
        if not self._steps and step >= self.every and not self._warned:
            self._warned = True
            warnings.warn(
                f"AgreementSchedule has not measured in {step} steps, and every one was full; call "
                "schedule.measure(...) where schedule.due(net.step, net.epoch)",
                stacklevel=2,
            )
        if place < 0 or (self.full_from is not None and epoch >= self.full_from):
            return Mode.FULL
        pays = self._gains[place] > self._costs[place]
        return Mode.LOW if pays and uniform_draw(self.seed, step) < self.p else Mode.FULL

    def due(self, step: int, epoch: int = 0) -> bool:
        """Whether step ``step``, yet to be taken, calls for a measurement first."""
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
        """Measure on full-size batches, decide for the steps from ``step`` on, and return the gain.

        autocast: the type that the run computes forwards in, if any. The model is left as it was. In a process group
        every rank has to call it; rank 0's batches count.
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

        # At most 1: where full gradients are all but lost in noise, the estimate has no upper bound.
        return min(1.0, progress_now(pair, batches, criterion, self.momentum, autocast).gain)

    def decide(self, step: int, gain: float, cost: float) -> None:
        """Note a measurement: a low step's ``gain`` and ``cost``, both in full steps, from ``step`` on.

        Raises ``ValueError`` for a step before the last decision's.
        """
        if self._steps and step < self._steps[-1]:
            raise ValueError(f"step {step} comes before the last decision, at {self._steps[-1]}")
        self._steps.append(step)
        self._gains.append(gain)
        self._costs.append(cost)

    def state_dict(self) -> dict[str, list[Any]]:
        """The decisions so far, in plain values."""
        return {"steps": list(self._steps), "gains": list(self._gains), "costs": list(self._costs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``. Raises ``KeyError`` where a list is missing."""
        self._steps, self._gains, self._costs = (list(state[name]) for name in ("steps", "gains", "costs"))

    def to_dict(self) -> dict[str, Any]:
        """The arguments, in plain values; decisions are state, and in ``state_dict()``."""
        names = ("every", "p", "batches", "cost", "full_from", "momentum", "seed")
        return {"kind": "agreement"} | {name: getattr(self, name) for name in names}


def _from_rank_0(pair: ModePair, measured: Callable[[], float]) -> float:
    """What rank 0 measures, or the error that it met, on every rank: none may wait for one that has failed."""
    import torch.distributed as dist
    from torch.nn import SyncBatchNorm

    if any(isinstance(module, SyncBatchNorm) for module in pair.model.modules()):
        raise ValueError("rank 0 measures alone, and a SyncBatchNorm would wait for the others; use other norms")
    told: list[Any] = [0.0, ""]
    if dist.get_rank() == 0:
        try:
            told[0] = measured()
        except Exception as error:
            told[1] = f"{type(error).__name__}: {error}"
    dist.broadcast_object_list(told, src=0)
    if told[1]:
        raise ValueError(f"measuring failed on rank 0: {told[1]}")
    return float(told[0])


def _in_group() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
