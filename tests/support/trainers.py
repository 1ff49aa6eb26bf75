"""One small training problem for every trainer, and what it must come to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lowmode_fx import BernoulliSchedule, CostCosineLR, LowModeModel, build_pair

IMAGES = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 5
DATA = TensorDataset(IMAGES, LABELS)
SCHEDULE = BernoulliSchedule(p=0.5, seed=1)
#: Low, then full: rates over the cost differ from those over the steps.
LOW_FIRST = BernoulliSchedule(p=[1.0, 0.0])
#: Of one epoch, without accumulation.
STEPS = 4


def network(norm: bool = True) -> nn.Module:
    """Two convolutions, norms, a head."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8) if norm else nn.GroupNorm(2, 8) for _ in range(2)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norms[0], nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), norms[1], nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def make(schedule: Any = SCHEDULE, model: nn.Module | None = None, **options: Any) -> LowModeModel:
    pair = build_pair(model or network(), torch.zeros(2, 3, 16, 16))
    return LowModeModel(pair, schedule, **{"compile": False, **options}).train()


def loader(batch_size: int = 8) -> DataLoader[Any]:
    """In order, so that runs can be compared."""
    return DataLoader(DATA, batch_size=batch_size)


def sgd(module: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def cost_cosine(net: LowModeModel, optimizer: Any) -> CostCosineLR:
    """For two epochs."""
    return CostCosineLR(optimizer, net, 2, STEPS)


def plain_loop(
    net: LowModeModel, epochs: int, accumulation: int = 1, optimizer: Any = None, scheduler: Any = None
) -> list[str]:
    """What a trainer must come to: the loop by hand."""
    optimizer = optimizer or sgd(net)
    net.attach(optimizer)
    modes = []
    for epoch in range(epochs):
        net.set_epoch(epoch)
        for number, (images, labels) in enumerate(loader(), start=1):
            (nn.functional.cross_entropy(net(images), labels) / accumulation).backward()
            modes.append(str(net.last_mode))
            if number % accumulation == 0:
                optimizer.step()
                optimizer.zero_grad()
                if scheduler is not None:
                    scheduler.step()
    return modes


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def accuracy(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        found = (model(IMAGES).argmax(1) == LABELS).float().mean()
    return float(found)
