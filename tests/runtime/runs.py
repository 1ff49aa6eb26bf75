"""Trainings of a small network, captured by CUDA or the recorder, or not at all: what they leave is compared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmode_fx import BernoulliSchedule, LowModeModel, TrainStep, UncapturedWarning, build_pair
from lowmode_fx.runtime.captured.graphs import CudaGraphs
from tests.runtime.recorder import Counted, Recorder

STEPS, IMAGES = 20, (4, 3, 12, 12)
Make = Callable[[Any], torch.optim.Optimizer]
SGD: Make = partial(torch.optim.SGD, lr=0.125, momentum=0.9, weight_decay=2**-10, fused=True)


class Net(nn.Module):
    """Batch norm, dropout, and an attribute that loops set from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body, self.drop, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.25), nn.Linear(8, 5)
        self.temperature = 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.body(F.relu(self.norm(self.stem(x)))))
        return self.fc(self.drop(x.mean((2, 3)))) / self.temperature


def build(model: nn.Module | None = None, **options: Any) -> LowModeModel:
    if model is None:
        torch.manual_seed(0)
        model = Net()
    pair = build_pair(model, torch.zeros(IMAGES))
    return LowModeModel(pair, BernoulliSchedule(0.5, seed=3), compile=False, **options)


def batches(count: int = STEPS, size: int = IMAGES[0]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shape = (size, *IMAGES[1:])
    return [
        (torch.randn(shape, generator=generator), torch.randint(0, 5, (size,), generator=generator))
        for _ in range(count)
    ]


class Run:
    """One training: the losses of its batches, and all that it leaves."""

    def __init__(self, make: Make = SGD, net: LowModeModel | None = None, **options: Any) -> None:
        self.net = build() if net is None else net
        self.optimizer = make(self.net.parameters())
        self.losses: list[float] = []
        self.recorder = options.get("graphs")
        self.step = TrainStep(self.net, options.pop("criterion", F.cross_entropy), self.optimizer, **options)

    def train(self, data: list[tuple[Tensor, Tensor]], between: Callable[[Run, int], object] | None = None) -> Run:
        torch.manual_seed(5)
        for place, (images, labels) in enumerate(data):
            if between is not None:
                between(self, place)
            self.losses.append(self.step(images, labels).item())
        return self


def same(one: Run, other: Run) -> bool:
    """Whether two runs left the same bits: losses, weights, buffers, the optimizer's state, steps."""
    ours, theirs = one.net.state_dict(), other.net.state_dict()
    states = [torch.utils._pytree.tree_leaves(run.optimizer.state_dict()["state"]) for run in (one, other)]
    return (
        one.losses == other.losses
        and one.net.step == other.net.step
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
        and len(states[0]) == len(states[1])
        and all(map(torch.equal, *([x for x in state if isinstance(x, Tensor)] for state in states)))
    )


def recorded(*args: Any, **options: Any) -> Run:
    return Run(*args, graphs=Recorder(), **options)


def heat(run: Run) -> None:
    run.net.temperature = 2.0


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip_grad_norm": 0.5},
    "two batches a step": {"accumulate": 2},
    "three batches a step, clipped": {"accumulate": 3, "clip_grad_norm": 0.5},
    "five batches a step": {"accumulate": 5},
    "bf16": {"autocast": torch.bfloat16},
    "fp16": {"autocast": torch.float16},
}


@dataclass(frozen=True)
class GraphKind:
    """What captures steps, and its device: the recorder on a CPU, or CUDA graphs."""

    device: torch.device
    new: Callable[[], Any]

    def captured(self, make: Make = SGD, net: LowModeModel | None = None, **options: Any) -> Run:
        return Run(make, self._here(net), **{"graphs": self.new(), **options})

    def loop(self, make: Make = SGD, net: LowModeModel | None = None, **options: Any) -> Run:
        return Run(make, self._here(net), **{"capture": False, **options})

    def batches(self, count: int = STEPS, size: int = IMAGES[0]) -> list[tuple[Tensor, Tensor]]:
        return [(images.to(self.device), labels.to(self.device)) for images, labels in batches(count, size)]

    def told(self, caught: Sequence[warnings.WarningMessage]) -> int:
        """How many warnings there were; on a GPU torch may have its own, which don't count."""
        kind = UncapturedWarning if self.device.type == "cuda" else Warning
        return sum(issubclass(each.category, kind) for each in caught)

    def _here(self, net: LowModeModel | None) -> LowModeModel:
        net = build() if net is None else net
        net.to(self.device)
        return net


def graph_kind(name: str) -> GraphKind:
    """Of ``"recorder"`` or ``"cuda"``."""
    if name == "recorder":
        return GraphKind(torch.device("cpu"), Recorder)
    device = torch.device("cuda", torch.cuda.current_device())
    return GraphKind(device, lambda: Counted(CudaGraphs(device)))
