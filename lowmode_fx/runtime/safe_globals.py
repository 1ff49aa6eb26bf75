"""Registers values of this package that ``torch.load`` may read with ``weights_only=True``.

Trainers may save them among their hyper-parameters. They are plain values without torch, so they are registered
whenever a public name of the package is imported.
"""

from __future__ import annotations

from fractions import Fraction

import torch

from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.mode import Mode
from lowmode_fx.runtime.schedules import SCHEDULES

torch.serialization.add_safe_globals([LowModeConfig, Fraction, Mode, *SCHEDULES.values()])
