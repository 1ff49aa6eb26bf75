"""The trainings on a GPU: networks, their low modes, optimizers and arms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from bench import gpu_arms, large_kernels_arms
from bench.large_networks import conv_mixer
from bench.networks import resnet, small_resnet
from bench.plans import FULL, Arm, phases
from lowmode_fx import LowModeConfig

Costs = Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """A network and the recipe that trains it.

    ``configs``: low modes by name. ``peak_rate``: the largest learning rate. ``rounds``: for costs.
    ``compile``: whether modes are compiled. ``arms``: the arms, given full-mode's epochs and the modes' costs.
    ``clip``: the largest norm of gradients. ``memory_format``: the fastest one for full steps, of images and, on a GPU,
    of weights. ``multipliers``: images of a mode's batch over full-mode's, where they are more.
    ``low_weight``: factor of low steps' gradients.
    """

    name: str
    build: Callable[[], nn.Module]
    configs: Mapping[str, LowModeConfig]
    optimizer: Callable[[Iterable[Tensor]], Optimizer]
    epochs: int
    batch: int
    peak_rate: float
    arms: Callable[[int, Costs], list[Arm]]
    clip: float | None = None
    memory_format: torch.memory_format = torch.channels_last
    rounds: int = 11
    compile: bool = True
    multipliers: Mapping[str, float] = field(default_factory=dict)
    low_weight: float | Mapping[str, float] = 1.0

    @property
    def modes(self) -> tuple[str, ...]:
        """All modes, full-mode first."""
        return (FULL, *self.configs)

    def network(self, device: torch.device, seed: int = 0) -> nn.Module:
        """The network with new weights."""
        torch.manual_seed(seed)
        model = self.build().to(device).train()
        return model.to(memory_format=self.memory_format) if device.type == "cuda" else model


_sgd = partial(SGD, lr=0.0, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True)
_adam = partial(AdamW, lr=0.0, weight_decay=5e-3, fused=True)
_LARGE_KERNEL_MODES = {
    name: config
    for name, config in large_kernels_arms.MODES.items()
    if name in (*large_kernels_arms.RAMP, "averaged", "bicubic", "resized")
}


def _large_kernel_arms(epochs: int, costs: Costs) -> list[Arm]:
    """The arms of the CPU comparison whose modes exist here, by shares of time, at this device's costs."""

    def steps(arm: large_kernels_arms.Arm, per_epoch: int, costs: Costs, seed: int) -> list[str]:
        return phases(list(arm.epochs(epochs, costs).items()), per_epoch)

    known = {FULL, *_LARGE_KERNEL_MODES}
    every = [arm for arm in large_kernels_arms.arms(costs) if set(arm.shares) <= known and not arm.mixed]
    every.sort(
        key=lambda arm: (arm.budget != 1, arm.budget)
    )  # the longest, then the shortest, which are the most informative
    return [
        Arm(
            arm.name if arm.budget == 1 else f"{arm.name}, {arm.budget:g} of the time",
            partial(steps, arm),
            over_macs=arm.over_time,
        )
        for arm in every
    ]


RESNET18 = Study(
    "resnet18",
    partial(resnet, 18, "cifar", 10),
    gpu_arms.CONFIGS,
    _sgd,
    epochs=24,
    batch=500,
    peak_rate=0.4,
    arms=lambda epochs, costs: gpu_arms.arms(epochs),
    multipliers=gpu_arms.MULTIPLIERS,
)
CONV_MIXER = Study(
    "convmixer-13",
    partial(conv_mixer, 13, width=128, depth=6),
    _LARGE_KERNEL_MODES,
    _adam,
    epochs=10,
    batch=250,
    peak_rate=1e-2,
    arms=_large_kernel_arms,
    clip=1.0,
    memory_format=torch.contiguous_format,
)
STUDIES = {study.name: study for study in (RESNET18, CONV_MIXER)}
#: Small versions that run in seconds on a CPU, uncompiled, to test the scripts.
SMALL = {
    "resnet18": replace(
        RESNET18,
        build=partial(small_resnet, width=8),
        epochs=2,
        batch=40,
        peak_rate=0.1,
        rounds=2,
        compile=False,
    ),
    "convmixer-13": replace(
        CONV_MIXER, build=partial(conv_mixer, 13, width=8, depth=1), epochs=4, batch=40, rounds=2, compile=False
    ),
}
