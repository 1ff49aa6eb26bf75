"""The arms of the ablation: the low-mode of each, and when its low steps are run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowmode_fx import BernoulliSchedule, LowModeConfig
from lowmode_fx.tuning.result import Tuning


@dataclass(frozen=True)
class Arm:
    """One configuration with the probability of a low step in each epoch; without one it is plain full-mode."""

    name: str
    config: LowModeConfig | None
    p: tuple[float, ...]
    weight: float = 1.0


def full_lengths(epochs: int) -> list[Arm]:
    """Plain full-mode, of full length and cut short: the accuracy that the same time gives without low-mode."""
    shares = (1.0, 0.75, 0.625, 0.5)
    return [Arm(f"full-mode, {round(epochs * share)} epochs", None, (0.0,) * round(epochs * share)) for share in shares]


def longer_low(network: str) -> list[Arm]:
    """Runs with more low epochs than full-mode has epochs: pooled and kept kernels in about the same time."""
    resampled = LowModeConfig(kernel_transform="linear", rounding="cover")
    found = {
        "resnet8": [
            ("r = 2, kernels kept", LowModeConfig(kernel_ratio=1), 11, 8),
            ("r = 2, kernels kept", LowModeConfig(kernel_ratio=1), 14, 6),
            ("r = 2, kernels kept", LowModeConfig(kernel_ratio=1), 18, 6),
            ("r = 3, kernels kept", LowModeConfig(ratio=3, kernel_ratio=1), 39, 8),
        ],
        "resnet8-5x5": [
            ("5×5 → 3×3 resampled", resampled, 19, 6),
            ("r = 2, kernels kept", LowModeConfig(kernel_ratio=1), 14, 6),
            ("r = 4, kernels kept", LowModeConfig(ratio=4, kernel_ratio=1), 10, 6),
        ],
    }
    return [
        Arm(f"{name}, {low} low + {full} full epochs", config, (1.0,) * low + (0.0,) * full)
        for name, config, low, full in found.get(network, [])
    ]


def arms(epochs: int, tuning: Tuning, last_stage: str, variations: bool) -> list[Arm]:
    """The arms that are compared with ``epochs`` epochs of full-mode. *Progressive*: half of them low, then full."""
    half = (1.0,) * (epochs // 2) + (0.0,) * (epochs - epochs // 2)
    mixed = (0.5,) * epochs
    paper, resolution = LowModeConfig.paper(), LowModeConfig(kernel_ratio=1)
    resampled = LowModeConfig(kernel_transform="linear")
    assert isinstance(tuning.schedule, BernoulliSchedule)  # the tuner searches for one low mode
    chosen = [tuning.schedule.low_probability(epoch) for epoch in range(tuning.epochs)]
    tuned = Arm("tuner's choice", tuning.config, tuple(chosen), tuning.low_weight)
    found = [
        tuned,
        Arm("resolution only, progressive", resolution, half),
        Arm("resolution only, p = 0.5", resolution, mixed),
        Arm("the paper's setting", paper, mixed),
        Arm("resolution only, progressive, low gradients × 0.5", resolution, half, 0.5),
        Arm("last stage pooled, progressive", LowModeConfig(pool_convs=(last_stage,)), half),
        Arm("all resampled, progressive", resampled, half),
        Arm("all averaged, progressive", LowModeConfig(), half),
    ]
    varied = [
        replace(tuned, name="tuner's choice, shared norms", config=replace(tuning.config, batchnorm="share")),
        replace(tuned, name="tuner's choice, low gradients × 1", weight=1.0),
        Arm("the paper's setting, isolated norms", replace(paper, batchnorm="isolate"), mixed),
    ]
    same = tuning.low_weight == 1
    return [*found, *(arm for arm in varied if variations and not (same and arm.name.endswith("× 1")))]
