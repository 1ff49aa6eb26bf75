"""Norms: written by hand, renormalising, of ghosts, frozen, chosen by domain, and what observes ranges."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import Kind
from semantics.skeleton import CHANNELS, Small, conv, sequence

KIND = Kind("norms", r"norm|running_|statistic|observer|buffer|spectral")


class HandNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(CHANNELS))
        self.register_buffer("running_var", torch.ones(CHANNELS))

    def forward(self, maps: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)
                self.running_var.lerp_(var, 0.1)
        return (maps - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()


@KIND.habit(compiled=True)
def hand_written() -> nn.Module:
    return sequence(HandNorm())


class BatchRenorm(HandNorm):
    """The batch's statistics, corrected towards the running ones within bounds."""

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps)
        mean, std = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False).add(1e-5).sqrt()
        running = self.running_var.sqrt()
        r = (std.detach() / running).clamp(0.5, 2)
        d = ((mean.detach() - self.running_mean) / running).clamp(-1, 1)
        self.running_mean += 0.1 * (mean.detach() - self.running_mean)
        self.running_var += 0.1 * (std.detach().square() - self.running_var)
        return (maps - mean[:, None, None]) / std[:, None, None] * r[:, None, None] + d[:, None, None]


@KIND.habit(compiled=True)
def batch_renorm() -> nn.Module:
    return sequence(BatchRenorm())


class GhostNorm(nn.BatchNorm2d):
    """The norm runs on halves of the batch, one after the other."""

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps)
        return torch.cat([super(GhostNorm, self).forward(half) for half in maps.chunk(2)])


@KIND.habit(compiled=True)
def ghost_norm() -> nn.Module:
    return sequence(GhostNorm(CHANNELS))


@KIND.habit()
def without_statistics() -> nn.Module:
    return sequence(nn.BatchNorm2d(CHANNELS, track_running_stats=False))


@KIND.habit()
def cumulative_average() -> nn.Module:
    """``momentum=None``: the counter weighs the batch."""
    return sequence(nn.BatchNorm2d(CHANNELS, momentum=None))


@KIND.habit()
def instance_norm_with_statistics() -> nn.Module:
    return sequence(nn.InstanceNorm2d(CHANNELS, affine=True, track_running_stats=True))


@KIND.habit()
class FunctionalOverOwnBuffers(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(CHANNELS))
        self.register_buffer("var", torch.ones(CHANNELS))
        self.scale = nn.Parameter(torch.ones(CHANNELS))

    def between(self, maps: Tensor) -> Tensor:
        return F.batch_norm(maps, self.mean, self.var, self.scale, None, training=self.training, momentum=0.2)


def next_domain(model: nn.Module, step: int) -> None:
    model.domain = step % 2


@KIND.habit(each_step=next_domain, compiled=True)
class NormByDomain(Small):
    """Each domain has its own norm, which the loop picks."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(2))
        self.domain = 0

    def between(self, maps: Tensor) -> Tensor:
        return self.norms[self.domain](maps)


@KIND.habit()
class TwoNormsMixed(Small):
    """Switchable normalisation: shares of two norms are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.batch, self.instance = nn.BatchNorm2d(CHANNELS), nn.InstanceNorm2d(CHANNELS)
        self.shares = nn.Parameter(torch.zeros(2))

    def between(self, maps: Tensor) -> Tensor:
        first, second = self.shares.softmax(0)
        return first * self.batch(maps) + second * self.instance(maps)


@KIND.habit(compiled=True)
class SetByTheFirstBatch(Small):
    """ActNorm: the first batch decides shift and scale."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.scale = nn.Parameter(torch.zeros(CHANNELS, 1, 1)), nn.Parameter(torch.ones(CHANNELS, 1, 1))
        self.register_buffer("initialised", torch.tensor(False))

    def between(self, maps: Tensor) -> Tensor:
        if self.training and not self.initialised:
            with torch.no_grad():
                self.shift.copy_(-maps.mean((0, 2, 3), keepdim=True)[0])
                self.scale.copy_(1 / (maps.std((0, 2, 3), keepdim=True)[0] + 0.1))
                self.initialised.fill_(True)
        return (maps + self.shift) * self.scale


@KIND.habit(dtype=torch.float32, tolerance=0.02)
def quantisation_aware() -> nn.Module:
    """Observers of ranges, as ``prepare_qat`` puts them on every layer."""
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    layers = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.ReLU(), conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(CHANNELS, 3)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.qconfig = get_default_qat_qconfig("fbgemm")
        return prepare_qat(model)


def slower_and_slower(model: nn.Module, step: int) -> None:
    model.norm.momentum = 0.1 / (step + 1)


@KIND.habit(each_step=slower_and_slower)
class MomentumSetByTheLoop(Small):
    pass


@KIND.habit(compiled=True)
class EvaluatedInForward(Small):
    """``.eval()`` is called on a norm in each forward."""

    def between(self, maps: Tensor) -> Tensor:
        self.norm.eval()
        return maps


@KIND.habit(compiled=True)
class StatisticsOfTheUnlabelled(Small):
    """Two halves of a batch go through one norm; one of them without moving its statistics (``momentum`` to 0)."""

    def maps(self, images: Tensor) -> Tensor:
        maps = self.body(F.relu(self.stem(images)))
        momentum, self.norm.momentum = self.norm.momentum, 0.0
        try:
            second = self.norm(maps[2:])
        finally:
            self.norm.momentum = momentum
        return F.relu(torch.cat([self.norm(maps[:2]), second]))


@KIND.habit()
class NormOverLogits(Small):
    """A one-dimensional norm behind the head."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> Any:
        return self.last(super().forward(images))
