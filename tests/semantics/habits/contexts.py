"""Contexts that ``forward`` opens: grad modes, autocast, saved-tensor hooks."""

from __future__ import annotations

import contextlib
import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantics.habit import Kind
from semantics.skeleton import CHANNELS, Small, conv

KIND = Kind("contexts", r"no_grad|grad_enabled|grad mode|autocast|context|inference")
#: Autocast leaves doubles alone; in bfloat16, two ways of averaging a kernel may round to neighbours.
ROUNDED = {"dtype": torch.float32, "tolerance": 0.03}


class Trunk(Small):
    """A trunk of two convolutions behind the stem, run in some grad mode."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU())


@KIND.habit(compiled=True)
class FrozenUnderNoGrad(Trunk):
    def between(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            return self.trunk(maps)


@KIND.habit(compiled=True)
class DecoratedWithNoGrad(Trunk):
    @torch.no_grad()
    def frozen(self, maps: Tensor) -> Tensor:
        return self.trunk(maps)

    def between(self, maps: Tensor) -> Tensor:
        return maps + self.frozen(maps)


def tune_from_the_second_step(model: nn.Module, step: int) -> None:
    model.tune_trunk = step >= 1


@KIND.habit(each_step=tune_from_the_second_step, compiled=True)
class GradModeByFlag(Trunk):
    """Fine-tuning in stages: the loop sets the flag that ``set_grad_enabled`` reads."""

    tune_trunk = False

    def between(self, maps: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.tune_trunk):
            return self.trunk(maps)


@KIND.habit(compiled=True)
class GradModeUntilSwitchedBack(Trunk):
    """``set_grad_enabled`` as a plain call, without a block."""

    def between(self, maps: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        seen = self.trunk(maps)
        torch.set_grad_enabled(True)
        return maps + seen


@KIND.habit()
class TeacherInInferenceMode(Trunk):
    def between(self, maps: Tensor) -> Tensor:
        with torch.inference_mode():
            seen = self.trunk(maps)
        return maps * torch.sigmoid(seen.clone())


@KIND.habit(compiled=True)
class MomentumTeacher(Small):
    """A second branch whose weights trail the first one's, moved in ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.student = conv()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        with torch.no_grad():
            self.teacher.weight.mul_(0.5)

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.mul_(0.9).add_(fast, alpha=0.1)

    def between(self, maps: Tensor) -> Tensor:
        if self.training:
            self.follow()
        with torch.no_grad():
            target = self.teacher(maps)
        return self.student(maps) - target


@KIND.habit(**ROUNDED, compiled=True)
class AutocastBlock(Small):
    def between(self, maps: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.relu(self.body(maps)).float()


@KIND.habit(**ROUNDED, around=lambda: torch.autocast("cpu", dtype=torch.bfloat16), compiled=True)
class Float32Island(Small):
    """The loop autocasts; a head that would overflow is kept out of it."""

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.maps(images).mean((2, 3))
        with torch.autocast("cpu", enabled=False):
            return self.head(pooled.float() * 3)


@KIND.habit(**ROUNDED, around=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
class AsksForAutocast(Small):
    """Built without autocast, trained under it."""

    def between(self, maps: Tensor) -> Tensor:
        return maps * 0.5 if torch.is_autocast_enabled("cpu") else maps


@KIND.habit(compiled=True)
class ForcesFromAnEnergy(Small):
    """The output is a derivative, taken in ``forward`` whatever the caller's grad mode."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            energy = self.head(torch.tanh(self.body(F.softplus(self.stem(images)))).mean((2, 3))).sum()
            (force,) = torch.autograd.grad(energy, images, create_graph=True)
        return force.mean((2, 3))


@KIND.habit()
class StopGradient(Small):
    def between(self, maps: Tensor) -> Tensor:
        return maps * torch.sigmoid(self.body(maps).detach())


@KIND.habit(compiled=True)
class SavedTensorsPacked(Small):
    """Activations are kept in half the bits for the backward pass."""

    def between(self, maps: Tensor) -> Tensor:
        def pack(saved: Tensor) -> Tensor:
            return saved.bfloat16() if saved.is_floating_point() else saved

        def unpack(kept: Tensor) -> Tensor:
            return kept.to(maps.dtype) if kept.is_floating_point() else kept

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return torch.tanh(maps)


@KIND.habit()
class ProfiledBlock(Small):
    def between(self, maps: Tensor) -> Tensor:
        with torch.profiler.record_function("between"):
            return torch.tanh(maps)


@KIND.habit(compiled=True)
class OwnContext(Small):
    """A context manager of the user's own, which sets a flag that layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.gentle = False

    @contextlib.contextmanager
    def gently(self):
        self.gentle = True
        try:
            yield
        finally:
            self.gentle = False

    def scaled(self, maps: Tensor) -> Tensor:
        return maps * 0.1 if self.gentle else maps

    def between(self, maps: Tensor) -> Tensor:
        with self.gently():
            maps = self.scaled(maps)
        return self.scaled(maps)


@KIND.habit(compiled=True)
class ForkedGenerator(Small):
    """Noise that is the same in each forward, and does not move the generator."""

    def between(self, maps: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return maps + 0.1 * torch.randn(1, CHANNELS, 1, 1)
