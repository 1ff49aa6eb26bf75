"""Train CNNs for less: a second, cheaper graph over the same parameters, for part of the steps."""

from passes import PassError

from .agreement import GradientAgreement, gradient_agreement
from .agreement_schedule import AgreementSchedule
from .config import LowModeConfig
from .downsampling import downsample
from .fitting import NoEffectWarning
from .flops import FlopReport, LayerFlops, count_flops
from .loading import host_loader
from .milestones import lr_milestones
from .pair import ModePair, PairReport, build_pair
from .runner import LowModeModel
from .schedule import BernoulliSchedule, Mode, PeriodicSchedule, Schedule
from .step_flops import count_step_flops
from .tracing import TraceError
from .tuning.tune import Tuning, tune

__all__ = [
    "AgreementSchedule",
    "BernoulliSchedule",
    "FlopReport",
    "GradientAgreement",
    "LayerFlops",
    "LowModeConfig",
    "LowModeModel",
    "Mode",
    "ModePair",
    "NoEffectWarning",
    "PairReport",
    "PassError",
    "PeriodicSchedule",
    "Schedule",
    "TraceError",
    "Tuning",
    "build_pair",
    "count_flops",
    "count_step_flops",
    "downsample",
    "gradient_agreement",
    "host_loader",
    "lr_milestones",
    "tune",
]
