"""Registers the schedule that measures, beside the values of ``lowmode_fx.runtime.safe_globals``."""

from __future__ import annotations

import torch

from lowmode_fx.runtime import safe_globals as safe_globals  # registers the others
from lowmode_fx.tuning.agreement_schedule import AgreementSchedule

torch.serialization.add_safe_globals([AgreementSchedule])
