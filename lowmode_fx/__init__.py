"""Train CNNs for less: cheaper modes over the same parameters, for part of the steps."""

from typing import TYPE_CHECKING

from lowmode_fx.utils.own_passes import import_lazily

if TYPE_CHECKING:
    from lowmode_fx.capture.capture import Captured, TraceError, capture
    from lowmode_fx.counting.forward import FlopReport, LayerFlops, count_flops
    from lowmode_fx.counting.step import count_step_flops
    from lowmode_fx.loading import Augmentation, DeviceLoader, PrefetchLoader
    from lowmode_fx.lowering.config import LowModeConfig
    from lowmode_fx.lowering.downsampling import downsample
    from lowmode_fx.lowering.ladder import Ladder, ModePair, Rung
    from lowmode_fx.lowering.live.lookup import LiveLoweringWarning
    from lowmode_fx.lowering.lower import lower
    from lowmode_fx.lowering.mode import Mode
    from lowmode_fx.lowering.pair import build_ladder, build_pair
    from lowmode_fx.lowering.report import NoEffectWarning, PairReport
    from lowmode_fx.runtime.captured.complaints import UncapturedWarning
    from lowmode_fx.runtime.host_loader import host_loader
    from lowmode_fx.runtime.mode_batches import ModeBatchSampler
    from lowmode_fx.runtime.model import LowModeModel
    from lowmode_fx.runtime.schedules import (
        BernoulliSchedule,
        LadderSchedule,
        PeriodicSchedule,
        Schedule,
        lr_milestones,
    )
    from lowmode_fx.runtime.train_step import TrainStep
    from lowmode_fx.train.cost_lr import CostCosineLR
    from lowmode_fx.train.cost_progress import cost_progress
    from lowmode_fx.train.precise_bn import recompute_statistics
    from lowmode_fx.tuning.agreement import GradientAgreement, gradient_agreement
    from lowmode_fx.tuning.agreement_schedule import AgreementSchedule
    from lowmode_fx.tuning.result import Tuning
    from lowmode_fx.tuning.tune import tune
    from lowmode_fx.utils.version import __version__ as __version__
    from passes import PassError

__all__ = [
    "AgreementSchedule",
    "Augmentation",
    "BernoulliSchedule",
    "Captured",
    "CostCosineLR",
    "DeviceLoader",
    "FlopReport",
    "GradientAgreement",
    "Ladder",
    "LadderSchedule",
    "LayerFlops",
    "LiveLoweringWarning",
    "LowModeConfig",
    "LowModeModel",
    "Mode",
    "ModeBatchSampler",
    "ModePair",
    "NoEffectWarning",
    "PairReport",
    "PassError",
    "PeriodicSchedule",
    "PrefetchLoader",
    "Rung",
    "Schedule",
    "TraceError",
    "TrainStep",
    "Tuning",
    "UncapturedWarning",
    "build_ladder",
    "build_pair",
    "capture",
    "cost_progress",
    "count_flops",
    "count_step_flops",
    "downsample",
    "gradient_agreement",
    "host_loader",
    "lower",
    "lr_milestones",
    "recompute_statistics",
    "tune",
]

# Where each name lives: importing the package waits for none of them, and the command line needs few.
import_lazily(
    __name__,
    {
        "lowmode_fx.capture.capture": ("Captured", "TraceError", "capture"),
        "lowmode_fx.counting.forward": ("FlopReport", "LayerFlops", "count_flops"),
        "lowmode_fx.counting.step": ("count_step_flops",),
        "lowmode_fx.loading": ("Augmentation", "DeviceLoader", "PrefetchLoader"),
        "lowmode_fx.lowering.config": ("LowModeConfig",),
        "lowmode_fx.lowering.downsampling": ("downsample",),
        "lowmode_fx.lowering.ladder": ("Ladder", "ModePair", "Rung"),
        "lowmode_fx.lowering.live.lookup": ("LiveLoweringWarning",),
        "lowmode_fx.lowering.lower": ("lower",),
        "lowmode_fx.lowering.mode": ("Mode",),
        "lowmode_fx.lowering.pair": ("build_ladder", "build_pair"),
        "lowmode_fx.lowering.report": ("NoEffectWarning", "PairReport"),
        "lowmode_fx.runtime.captured.complaints": ("UncapturedWarning",),
        "lowmode_fx.runtime.host_loader": ("host_loader",),
        "lowmode_fx.runtime.mode_batches": ("ModeBatchSampler",),
        "lowmode_fx.runtime.model": ("LowModeModel",),
        "lowmode_fx.runtime.schedules": (
            "BernoulliSchedule",
            "LadderSchedule",
            "PeriodicSchedule",
            "Schedule",
            "lr_milestones",
        ),
        "lowmode_fx.runtime.train_step": ("TrainStep",),
        "lowmode_fx.train.cost_lr": ("CostCosineLR",),
        "lowmode_fx.train.cost_progress": ("cost_progress",),
        "lowmode_fx.train.precise_bn": ("recompute_statistics",),
        "lowmode_fx.tuning.agreement": ("GradientAgreement", "gradient_agreement"),
        "lowmode_fx.tuning.agreement_schedule": ("AgreementSchedule",),
        "lowmode_fx.tuning.result": ("Tuning",),
        "lowmode_fx.tuning.tune": ("tune",),
        "lowmode_fx.utils.version": ("__version__",),
        "passes": ("PassError",),
    },
    first="lowmode_fx.tuning.safe_globals",  # who uses a name may load a checkpoint that holds values of ours
)
