"""The cost of a low step in full steps: by time, or by multiply-adds."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from lowmode_fx.counting.step import count_forward_macs, count_step_flops
from lowmode_fx.lowering.ladder import Ladder, ModePair
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.captured.graphs import Graphs, graphs_for
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.schedules.chosen import ChosenMode
from lowmode_fx.runtime.train_step import TrainStep
from lowmode_fx.tuning.agreement import Criterion
from lowmode_fx.tuning.batches import Call
from lowmode_fx.tuning.growth import scaled_rate
from lowmode_fx.utils.devices import synchronize
from passes.preserve import preserve_state, train_mode

CostMeasure = Literal["time", "macs"]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
#: Warm-up steps of each mode, after which all are replays, and number of replays that are timed together.
_UNTIL_CAPTURED, _REPLAYS = 3, 10


class MeasuredCost(NamedTuple):
    """The cost of a low step in full steps; ``error``: its standard error, NaN if it is counted."""

    cost: float
    error: float = math.nan

    def of_as_many(self, images: int, full: int) -> MeasuredCost:
        """The cost of as many images as a full step has, ``full``, where a low step has ``images``."""
        return MeasuredCost(self.cost * full / images, self.error * full / images)

    @classmethod
    def of(cls, ratios: Sequence[float]) -> MeasuredCost:
        """The median of paired ratios, with the standard error of their mean, which is near the median's."""
        return cls(
            statistics.median(ratios), statistics.stdev(ratios) / math.sqrt(len(ratios)) if ratios[1:] else math.nan
        )


@dataclass(frozen=True)
class StepKind:
    """How the steps of a run are made: what a price depends on besides the network and the batch.

    ``optimizer``: makes the optimizer, which steps at a rate of 0. ``compile``: whether every mode is compiled.
    ``graphs``: what captures; CUDA graphs on CUDA, nothing elsewhere.
    """

    optimizer: OptimizerFactory
    autocast: torch.dtype | None = None
    compile: bool = False
    graphs: Graphs | None = None


def step_cost(
    pair: ModePair,
    batch: Call,
    criterion: Criterion,
    kind: StepKind,
    measure: CostMeasure = "time",
    rounds: int = 5,
    low_batch: Call | None = None,
) -> MeasuredCost:
    """The cost of a low step relative to a full one, with its standard error.

    ``"time"``: of whole steps on the full-size ``batch``, see ``step_costs``. ``"macs"``: the ratio of multiply-adds,
    forward and backward, of equal batches. ``low_batch``: a low step's full-size batch, if it is another.
    """
    if measure == "macs":
        return MeasuredCost(mac_cost(pair))
    low_batches = {} if low_batch is None else {Mode.LOW: low_batch}
    return step_costs(pair, batch, criterion, kind, rounds, low_batches)[Mode.LOW]


def step_costs(
    ladder: Ladder,
    batch: Call,
    criterion: Criterion,
    kind: StepKind,
    rounds: int = 5,
    low_batches: Mapping[Mode, Call] | None = None,
) -> dict[Mode, MeasuredCost]:
    """The time of a step of each low mode relative to a full one: forward, loss, backward and the optimizer's step.

    The median over paired, interleaved rounds after a warm-up, of steps as ``TrainStep`` makes them: with gaps between
    kernels all modes would take the same time on CUDA, so steps are replays there. ``low_batches``: full-size batches
    of low modes, where they are others. The model is left as it was.
    """
    schedule, device = ChosenMode(), batch.device
    low_modes = [rung.mode for rung in ladder.rungs]
    batches = dict.fromkeys((Mode.FULL, *low_modes), batch) | dict(low_batches or {})
    graphs = kind.graphs or graphs_for(device)
    warm_up, repeats = (1, 1) if graphs is None else (_UNTIL_CAPTURED, _REPLAYS)
    ratios: dict[Mode, list[float]] = {mode: [] for mode in low_modes}
    with preserve_state(ladder.model, parameters=True, gradients=True), train_mode(ladder.model):
        net = LowModeModel(ladder, schedule, compile=kind.compile)
        optimizer = kind.optimizer(net.parameters())
        step = TrainStep(net, criterion, optimizer, autocast=kind.autocast, graphs=graphs)
        with scaled_rate(optimizer, 0.0):  # it does its work, and weights stay as they are
            for round_number in range(-warm_up, rounds):
                seconds = {}
                for mode, each in batches.items():
                    schedule.chosen = mode
                    seconds[mode] = _seconds(step, each, repeats if round_number >= 0 else 1)
                for mode in low_modes if round_number >= 0 else ():
                    ratios[mode].append(seconds[mode] / seconds[Mode.FULL])
    return {mode: MeasuredCost.of(each) for mode, each in ratios.items()}


def _seconds(step: TrainStep, batch: Call, repeats: int) -> float:
    args, kwargs = batch.inputs.call(batch.leaves)
    synchronize(batch.device)
    start = time.perf_counter()
    for _ in range(repeats):
        step(kwargs or tuple(args), batch.targets)
    synchronize(batch.device)
    return time.perf_counter() - start


def mac_cost(pair: ModePair) -> float:
    """Multiply-adds of a low step over those of a full one; of the forwards only if steps can't be counted."""
    try:
        full, low = count_step_flops(pair)
    except (RuntimeError, NotImplementedError):  # a forward that reads a value, as a norm without momentum does
        full, low = count_forward_macs(pair)
    return low / full
