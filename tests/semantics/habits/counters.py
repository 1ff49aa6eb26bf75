"""Python's own state: counters, containers and iterators that ``forward`` moves on."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from typing import Any

import torch
from torch import Tensor, nn

from semantics.habit import Kind, weighted
from semantics.skeleton import CHANNELS, Small

KIND = Kind("counters", r"attribute|side effect|counter|state|Python")


@KIND.habit(compiled=True)
class CountedInPython(Small):
    """A counter warms a branch up."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def between(self, maps: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return maps * min(1.0, self.calls / 10)


@KIND.habit()
class EverySecondForward(CountedInPython):
    """The counter decides a branch."""

    def between(self, maps: Tensor) -> Tensor:
        maps = super().between(maps)
        return torch.tanh(self.body(maps)) if self.calls % 2 else maps


@KIND.habit()
class RecentMeans(Small):
    """A deque of the last few batches' means."""

    def __init__(self) -> None:
        super().__init__()
        self.recent: deque[Tensor] = deque(maxlen=2)

    def between(self, maps: Tensor) -> Tensor:
        if self.training:
            self.recent.append(maps.detach().mean())
        return maps - sum(self.recent, torch.zeros(()))


@KIND.habit()
class LengtheningList(Small):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def between(self, maps: Tensor) -> Tensor:
        self.shapes.append(tuple(maps.shape[:2]))
        return maps / len(self.shapes)


@KIND.habit()
class StatisticsByName(Small):
    """A dict of figures for the log."""

    def __init__(self) -> None:
        super().__init__()
        self.log: dict[str, Any] = {"calls": 0}

    def between(self, maps: Tensor) -> Tensor:
        self.log["calls"] += 1
        self.log["mean"] = maps.detach().mean()
        return maps


@KIND.habit(compiled=True)
class CountsOfBranches(Small):
    def __init__(self) -> None:
        super().__init__()
        self.taken: Counter[str] = Counter()

    def between(self, maps: Tensor) -> Tensor:
        branch = "tanh" if self.taken["tanh"] <= self.taken["sigmoid"] else "sigmoid"
        self.taken[branch] += 1
        return getattr(torch, branch)(maps)


@KIND.habit(compiled=True)
class DilationsInTurn(Small):
    """``itertools.cycle`` gives each forward another dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.dilations = itertools.cycle([1, 2, 3])

    def between(self, maps: Tensor) -> Tensor:
        dilation = next(self.dilations)
        return torch.conv2d(maps, self.body.weight, self.body.bias, padding=dilation, dilation=dilation)


@KIND.habit()
class NumberedForwards(Small):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)

    def between(self, maps: Tensor) -> Tensor:
        return maps / next(self.numbers)


@KIND.habit()
class SetOfSizes(Small):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()

    def between(self, maps: Tensor) -> Tensor:
        self.sizes.add(maps.shape[-1])
        return maps * len(self.sizes)


class Progress:
    """A plain object that the model holds."""

    def __init__(self) -> None:
        self.done, self.marks = 0, [0]

    def advance(self) -> int:
        self.done += 1
        self.marks.append(self.done)
        return self.done


@KIND.habit(compiled=True)
class StateInAnObject(Small):
    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress()

    def between(self, maps: Tensor) -> Tensor:
        return maps / self.progress.advance()


@KIND.habit(compiled=True)
class StateInANestedDict(Small):
    def __init__(self) -> None:
        super().__init__()
        self.state = {"ema": {"mean": 0.0, "history": [0.0]}}

    def between(self, maps: Tensor) -> Tensor:
        ema = self.state["ema"]
        ema["mean"] = 0.5 * ema["mean"] + 0.5 * len(ema["history"])
        ema["history"].append(ema["mean"])
        return maps * (1 + ema["mean"])


@KIND.habit(checks=("full",))
def counted_on_the_class() -> nn.Module:
    """A counter that all instances share: its value after low steps is undefined."""

    class Counted(Small):
        calls = 0

        def between(self, maps: Tensor) -> Tensor:
            type(self).calls += 1
            return maps / type(self).calls

    return Counted()


def with_left_penalty(model: nn.Module, outputs: Any) -> Tensor:
    return weighted(model, outputs) + 0.1 * model.penalty


@KIND.habit(loss=with_left_penalty, compiled=True)
class PenaltyLeftOnTheModel(Small):
    """The loop adds an attribute that ``forward`` leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.penalty = torch.zeros(())

    def between(self, maps: Tensor) -> Tensor:
        self.penalty = maps.abs().mean()
        return maps


def with_left_losses(model: nn.Module, outputs: Any) -> Tensor:
    loss = weighted(model, outputs) + sum(model.losses)
    model.losses.clear()
    return loss


@KIND.habit(loss=with_left_losses, compiled=True)
class LossesCollectedInAList(Small):
    """Balancing losses are appended to a list, which the loop sums up and empties."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []
        self.gate = nn.Linear(CHANNELS, 2)

    def between(self, maps: Tensor) -> Tensor:
        self.losses.append(self.gate(maps.mean((2, 3))).softmax(1).mean(0).square().sum())
        return maps


@KIND.habit()
class FeaturesLeftForTheLog(Small):
    """Detached maps, for a picture of them."""

    def between(self, maps: Tensor) -> Tensor:
        self.last_maps = maps.detach()
        return maps


@KIND.habit()
class ShapeRemembered(Small):
    """What an earlier line has put on ``self`` is read by a later one."""

    def between(self, maps: Tensor) -> Tensor:
        self.side = maps.shape[-1]
        return maps.flatten(2)[..., : self.side * self.side // 2].mean(2)[..., None, None] + maps
