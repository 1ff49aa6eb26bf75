"""Values that a trainer may keep among its hyper-parameters, and ``torch.load`` reads with ``weights_only=True``."""

from __future__ import annotations

from fractions import Fraction

import torch

from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules import SCHEDULES

torch.serialization.add_safe_globals([LowModeConfig, Fraction, Mode, *SCHEDULES.values()])
