"""Buffers that ``forward`` moves: in place, by assignment, by index, or makes when it first runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import Kind
from semantics.skeleton import CHANNELS, Small

KIND = Kind("buffers", r"buffer|state|in place|centre|queue|\.data|attribute")


class Centred(Small):
    """A running centre is taken off the maps; how it moves is the habit."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(CHANNELS))

    def move(self, mean: Tensor) -> None:
        raise NotImplementedError

    def between(self, maps: Tensor) -> Tensor:
        if self.training:
            self.move(maps.detach().mean((0, 2, 3)))
        return maps - self.centre[:, None, None]


@KIND.habit(compiled=True)
class MovedInPlace(Centred):
    def move(self, mean: Tensor) -> None:
        self.centre.mul_(0.9).add_(mean, alpha=0.1)


@KIND.habit()
class MovedByCopy(Centred):
    def move(self, mean: Tensor) -> None:
        self.centre.copy_(0.9 * self.centre + 0.1 * mean)


@KIND.habit(compiled=True)
class Reassigned(Centred):
    def move(self, mean: Tensor) -> None:
        self.centre = 0.9 * self.centre + 0.1 * mean


@KIND.habit(compiled=True)
class MovedThroughData(Centred):
    def move(self, mean: Tensor) -> None:
        self.centre.data = 0.9 * self.centre.data + 0.1 * mean


@KIND.habit()
class MovedByLerp(Centred):
    def move(self, mean: Tensor) -> None:
        with torch.no_grad():
            self.centre.lerp_(mean, 0.1)


@KIND.habit()
class MovedByItsName(Centred):
    def move(self, mean: Tensor) -> None:
        setattr(self, "cen" + "tre", getattr(self, "cen" + "tre") * 0.9 + mean * 0.1)


@KIND.habit()
class MovedInTheRegistry(Centred):
    def move(self, mean: Tensor) -> None:
        self._buffers["centre"] = 0.9 * self._buffers["centre"] + 0.1 * mean


@KIND.habit()
class MovedByAnOperatorWithOut(Centred):
    def move(self, mean: Tensor) -> None:
        torch.add(self.centre * 0.9, mean, alpha=0.1, out=self.centre)


@KIND.habit()
class MovedAcrossModules(Small):
    """The root writes into a part's buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Module()
        self.memory.register_buffer("mean", torch.zeros(CHANNELS))

    def between(self, maps: Tensor) -> Tensor:
        if self.training:
            self.memory.mean += 0.1 * (maps.detach().mean((0, 2, 3)) - self.memory.mean)
        return maps - self.memory.mean[:, None, None]


@KIND.habit(compiled=True)
class CountedSteps(Small):
    """A counter as a buffer, which warms a branch up."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def between(self, maps: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return maps * (self.steps / 10).clamp(max=1)


@KIND.habit(compiled=True)
class WarmUpByBuffer(CountedSteps):
    """The counter decides a branch."""

    def between(self, maps: Tensor) -> Tensor:
        maps = super().between(maps)
        return maps if self.steps < 2 else torch.tanh(self.body(maps))


@KIND.habit(compiled=True)
class Queue(Small):
    """MoCo's: the batch's features replace the oldest, at a pointer that is a buffer too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", F.normalize(torch.randn(12, CHANNELS), dim=1))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        start = int(self.pointer)
        self.queue[start : start + len(keys)] = keys
        self.pointer[0] = (start + len(keys)) % len(self.queue)

    def forward(self, images: Tensor) -> Tensor:
        features = F.normalize(self.maps(images).mean((2, 3)), dim=1)
        similar = features @ self.queue.clone().T
        if self.training:
            self.enqueue(features)
        return torch.cat([self.head(features), similar], 1)


@KIND.habit()
class RolledHistory(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("history", torch.zeros(3, CHANNELS), persistent=False)

    def between(self, maps: Tensor) -> Tensor:
        if self.training:
            self.history = torch.roll(self.history, 1, 0)
            self.history[0] = maps.detach().mean((0, 2, 3))
        return maps + self.history.mean(0)[:, None, None]


@KIND.habit(compiled=True)
class Codebook(Small):
    """Vector quantisation with a codebook that follows its members, and a straight-through gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(5, CHANNELS))
        self.register_buffer("members", torch.ones(5))

    def between(self, maps: Tensor) -> Tensor:
        rows = maps.permute(0, 2, 3, 1).reshape(-1, CHANNELS)
        nearest = torch.cdist(rows.detach(), self.codes).argmin(1)
        found = self.codes[nearest]
        if self.training:
            chosen = F.one_hot(nearest, 5).to(rows.dtype)
            self.members.mul_(0.9).add_(chosen.sum(0), alpha=0.1)
            self.codes.mul_(0.9).add_(chosen.T @ rows.detach() / self.members[:, None], alpha=0.1)
        found = rows + (found - rows).detach()
        return found.reshape(*maps.shape[:1], *maps.shape[2:], CHANNELS).permute(0, 3, 1, 2)


@KIND.habit(compiled=True)
class MadeInTheFirstForward(Small):
    """Registered when the first batch tells how many channels there are."""

    def between(self, maps: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.zeros(maps.shape[1]))
        if self.training:
            self.late += 0.1 * maps.detach().mean((0, 2, 3))
        return maps - self.late[:, None, None]


@KIND.habit(compiled=True)
class EmptyUntilTheFirstForward(Small):
    """Registered as ``None``, filled by the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", None)

    def between(self, maps: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = maps.detach().std((0, 2, 3)) + 0.1
        return maps / self.scale[:, None, None]


@KIND.habit()
class CachedBySize(Small):
    """A positional code that is made anew where the size of the maps changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ramp", torch.zeros(0), persistent=False)

    def between(self, maps: Tensor) -> Tensor:
        if self.ramp.shape[-1] != maps.shape[-1]:
            self.ramp = torch.linspace(-1, 1, maps.shape[-1], device=maps.device)
        return maps + self.ramp


@KIND.habit()
class LargestSeen(Small):
    """An observer's range, by ``torch.maximum`` into the buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.tensor(1e-3))

    def between(self, maps: Tensor) -> Tensor:
        if self.training:
            torch.maximum(self.largest, maps.detach().amax(), out=self.largest)
        return maps / self.largest


class CentredByAPlainTensor(Centred):
    """The centre is no buffer, but an attribute."""

    def __init__(self) -> None:
        super().__init__()
        del self.centre
        self.centre = torch.zeros(CHANNELS)


@KIND.habit(compiled=True)
class PlainTensorMovedInPlace(CentredByAPlainTensor):
    def move(self, mean: Tensor) -> None:
        self.centre.mul_(0.9).add_(mean, alpha=0.1)


@KIND.habit()
class PlainTensorReassigned(CentredByAPlainTensor):
    def move(self, mean: Tensor) -> None:
        self.centre = 0.9 * self.centre + 0.1 * mean


@KIND.habit()
class PlainTensorsInADict(CentredByAPlainTensor):
    """Statistics by name, each moved in place."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = {"centre": self.centre, "count": torch.zeros((), dtype=torch.long)}

    def move(self, mean: Tensor) -> None:
        self.statistics["count"] += 1
        self.statistics["centre"].lerp_(mean, 0.1)
