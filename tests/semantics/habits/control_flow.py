"""Branches, loops and other Python: on shapes, on values, on counters, through exceptions."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import Kind
from semantics.skeleton import CHANNELS, Small, conv

KIND = Kind("control_flow", r"branch|data-dependent|control flow|\blen\b|item can")


@KIND.habit()
class BranchOnTheShape(Small):
    def between(self, maps: Tensor) -> Tensor:
        if maps.shape[-1] % 2:
            maps = F.pad(maps, (0, 1))
        return maps[..., ::2] if maps.shape[-1] >= 16 else maps


@KIND.habit(compiled=True)
class BranchOnValues(Small):
    def between(self, maps: Tensor) -> Tensor:
        return torch.tanh(self.body(maps)) if maps.mean() > maps.std() else maps


@KIND.habit(compiled=True)
class LoopUntilSmall(Small):
    """Repeated until a value is small enough."""

    def between(self, maps: Tensor) -> Tensor:
        rounds = 0
        while float(maps.detach().abs().max()) > 1.0 and rounds < 4:
            maps, rounds = maps / 2, rounds + 1
        return maps + rounds


@KIND.habit(compiled=True)
class BreakInALoop(Small):
    """Early exit: later blocks are skipped where an earlier one is sure."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(conv() for _ in range(3))

    def between(self, maps: Tensor) -> Tensor:
        for block in self.blocks:
            maps = torch.tanh(block(maps))
            if maps.abs().mean() < 0.2:
                break
        return maps


@KIND.habit()
class BlockSkippedByIndex(BreakInALoop):
    def between(self, maps: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            if index == 1:
                continue
            maps = maps + block(maps) / (index + 1)
        return maps


@KIND.habit()
class Recursion(Small):
    def fold(self, maps: Tensor, depth: int) -> Tensor:
        return maps if depth == 0 else torch.tanh(self.body(self.fold(maps, depth - 1)))

    def between(self, maps: Tensor) -> Tensor:
        return self.fold(maps, 2)


@KIND.habit(compiled=True)
class TryAndFinally(Small):
    busy = False

    def between(self, maps: Tensor) -> Tensor:
        self.busy = True
        try:
            return torch.tanh(self.body(maps))
        finally:
            self.busy = False


@KIND.habit(compiled=True)
class CaughtException(Small):
    """A layer that does not take the maps is passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(CHANNELS + 1, CHANNELS, 3, padding=1)

    def between(self, maps: Tensor) -> Tensor:
        try:
            return self.other(maps)
        except RuntimeError:
            return torch.tanh(maps)


@KIND.habit()
class Assertions(Small):
    def between(self, maps: Tensor) -> Tensor:
        assert maps.ndim == 4 and torch.isfinite(maps).all(), "maps must be finite"
        return maps


@KIND.habit(compiled=True)
class IndexByValue(Small):
    """A branch chosen by the batch: experts, one for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.gate = nn.ModuleList([conv(), conv(kernel=5)]), nn.Linear(CHANNELS, 2)

    def between(self, maps: Tensor) -> Tensor:
        scores = self.gate(maps.mean((0, 2, 3)))
        chosen = int(scores.argmax())
        return self.experts[chosen](maps) * scores.softmax(0)[chosen]


@KIND.habit(compiled=True)
class ExpertsByImage(IndexByValue):
    """Each image has its expert; an expert without images is not called."""

    def between(self, maps: Tensor) -> Tensor:
        scores = self.gate(maps.mean((2, 3))).softmax(1)
        chosen = scores.argmax(1)
        result = torch.zeros_like(maps)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero()[:, 0]
            if len(rows):
                result = result.index_add(0, rows, expert(maps[rows]) * scores[rows, index, None, None, None])
        return result


@KIND.habit()
class ImagesOneByOne(Small):
    def between(self, maps: Tensor) -> Tensor:
        return torch.stack([self.body(image[None])[0] for image in maps])


@KIND.habit()
class MatchStatement(Small):
    kind = "tanh"

    def between(self, maps: Tensor) -> Tensor:
        match self.kind:
            case "tanh":
                return torch.tanh(maps)
            case _:
                return maps


@KIND.habit()
class DispatchByName(Small):
    def by_tanh(self, maps: Tensor) -> Tensor:
        return torch.tanh(self.body(maps))

    def between(self, maps: Tensor) -> Tensor:
        steps = {
            "first": functools.partial(F.pad, pad=(1, 1, 1, 1), mode="reflect"),
            "second": getattr(self, "by_" + "tanh"),
        }
        for name in ("first", "second"):
            maps = steps[name](maps)
        return maps


@KIND.habit(cause=r"torch\.cond")
class CondOfTorch(Small):
    """A branch as an operator, whose untaken side gets gradients of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.other = conv(CHANNELS)

    def between(self, maps: Tensor) -> Tensor:
        return torch.cond(maps.mean() > 0, lambda taken: self.body(taken), lambda taken: self.other(taken), (maps,))


@KIND.habit(compiled=True)
class Generator(Small):
    """Stages from a generator function."""

    def stages(self, maps: Tensor):
        for _ in range(2):
            maps = torch.tanh(self.body(maps))
            yield maps

    def between(self, maps: Tensor) -> Tensor:
        return sum(self.stages(maps))


@KIND.habit()
class InPlaceOnSlices(Small):
    def between(self, maps: Tensor) -> Tensor:
        maps = maps.clone()
        maps[:, ::2] *= 2
        maps[:, 0].add_(1).clamp_(max=2)
        return maps


@KIND.habit()
class SkipOfAnotherSize(Small):
    """A decoder that follows the size of what it is joined with."""

    def between(self, maps: Tensor) -> Tensor:
        deep = torch.tanh(self.body(F.max_pool2d(maps, 2)))
        return maps + F.interpolate(deep, size=maps.shape[-2:], mode="nearest")


@KIND.habit()
class UnusedBranch(Small):
    """A layer runs, and its result is not used."""

    def between(self, maps: Tensor) -> Tensor:
        self.body(maps)
        return maps


@KIND.habit()
class ThresholdFromThisBatch(Small):
    """A quantile of the maps as a number of Python's."""

    def between(self, maps: Tensor) -> Tensor:
        limit = maps.detach().flatten().kthvalue(int(maps.numel() * 0.9)).values.item()
        return maps.clamp(max=limit)
