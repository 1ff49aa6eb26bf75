"""The cost of a low step in full steps: by time, or by multiply-adds."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn

from lowmode_fx.counting.step import count_forward_macs, count_step_flops
from lowmode_fx.lowering import networks
from lowmode_fx.lowering.ladder import ModePair
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.captured.graphs import Graphs, graphs_for
from lowmode_fx.runtime.model import LowModeModel
from lowmode_fx.runtime.schedules.chosen import ChosenMode
from lowmode_fx.runtime.train_step import TrainStep
from lowmode_fx.tuning.agreement import Criterion, step_gradient
from lowmode_fx.tuning.batches import Call
from lowmode_fx.utils.devices import synchronize
from passes.preserve import preserve_state, train_mode

CostMeasure = Literal["time", "macs"]
#: Warm-up steps of each mode, after which all are replays, and number of replays that are timed together.
_UNTIL_CAPTURED, _REPLAYS = 3, 10


class MeasuredCost(NamedTuple):
    """The cost of a low step in full steps; ``error``: its standard error, NaN if it is counted."""

    cost: float
    error: float = math.nan

    @classmethod
    def of(cls, ratios: Sequence[float]) -> MeasuredCost:
        """The median of paired ratios, with the standard error of their mean, which is near the median's."""
        return cls(
            statistics.median(ratios), statistics.stdev(ratios) / math.sqrt(len(ratios)) if ratios[1:] else math.nan
        )


def step_cost(
    pair: ModePair,
    batch: Call,
    criterion: Criterion,
    measure: CostMeasure = "time",
    rounds: int = 5,
    autocast: torch.dtype | None = None,
    graphs: Graphs | None = None,
    low_batch: Call | None = None,
) -> MeasuredCost:
    """The cost of a low step relative to a full one, forward and backward, with its standard error.

    ``"time"``: the median over paired, interleaved rounds on the full-size ``batch``, uncompiled, under autocast to
    that dtype. On CUDA it is that of captured steps (``TrainStep``), since with gaps between kernels all modes take the
    same time. ``"macs"``: the ratio of multiply-adds, forward and backward, of equal batches. ``graphs``: what
    captures; CUDA graphs on CUDA, nothing elsewhere. ``low_batch``: a low step's full-size batch, if it is another.
    """
    if measure == "macs":
        return MeasuredCost(mac_cost(pair))
    graphs = graphs or graphs_for(batch.device)
    batches = {Mode.FULL: batch, Mode.LOW: batch if low_batch is None else low_batch}
    if graphs is not None:
        return _captured_cost(pair, batches, criterion, rounds, autocast, graphs)
    ratios = []
    steps = [(networks.network(pair, mode, downsample=True), each) for mode, each in batches.items()]
    with preserve_state(pair.model, parameters=True), train_mode(pair.model):
        for round_number in range(rounds + 1):
            seconds = [_seconds(network, each, criterion, pair.model, autocast) for network, each in steps]
            if round_number:  # the first is a warm-up
                ratios.append(seconds[1] / seconds[0])
    return MeasuredCost.of(ratios)


def _captured_cost(
    pair: ModePair,
    batches: Mapping[Mode, Call],
    criterion: Criterion,
    rounds: int,
    autocast: torch.dtype | None,
    graphs: Graphs,
) -> MeasuredCost:
    """The cost of a low step, with the optimizer's, as replays; steps that can't be captured are timed as they run."""
    schedule = ChosenMode()
    device = batches[Mode.FULL].device
    ratios = []
    with preserve_state(pair.model, parameters=True, gradients=True), train_mode(pair.model):
        net = LowModeModel(pair, schedule, compile=False)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0, fused=True)
        step = TrainStep(net, criterion, optimizer, autocast=autocast, graphs=graphs)
        for round_number in range(-_UNTIL_CAPTURED, rounds):
            seconds = []
            for mode, batch in batches.items():
                schedule.chosen = mode
                args, kwargs = batch.inputs.call(batch.leaves)
                synchronize(device)
                start = time.perf_counter()
                for _ in range(_REPLAYS if round_number >= 0 else 1):
                    step(kwargs or tuple(args), batch.targets)
                synchronize(device)
                seconds.append(time.perf_counter() - start)
            if round_number >= 0:
                ratios.append(seconds[1] / seconds[0])
    return MeasuredCost.of(ratios)


def mac_cost(pair: ModePair) -> float:
    """Multiply-adds of a low step over those of a full one; of the forwards only if steps can't be counted."""
    try:
        full, low = count_step_flops(pair)
    except (RuntimeError, NotImplementedError):  # a forward that reads a value, as a norm without momentum does
        full, low = count_forward_macs(pair)
    return low / full


def _seconds(
    network: networks.Network, batch: Call, criterion: Criterion, model: nn.Module, autocast: torch.dtype | None
) -> float:
    synchronize(batch.device)
    start = time.perf_counter()
    step_gradient(network, batch, criterion, model, autocast)
    synchronize(batch.device)
    return time.perf_counter() - start
