"""The arms of a study that a result file's row describes: plans follow from the tuner's choices and from costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.ablation_arms import full_lengths, ladders, longer_low, low_modes, one_low_mode, tuned
from bench.ablation_studies import BATCH, Study
from bench.plans import FULL, Arm
from lowmode_fx import LowModeConfig, Tuning


@dataclass(frozen=True)
class Compared:
    """The arms of a study, with the configuration and the median cost of each low mode by name."""

    arms: list[Arm]
    configs: Mapping[str, LowModeConfig]
    costs: Mapping[str, float]

    @classmethod
    def of(cls, study: Study, row: Mapping[str, Any]) -> Compared:
        """From the row of a study in a result file, with the tuner's choices and, once measured, the costs."""
        choice = Tuning.from_dict(row["tuning"]) if "tuning" in row else None
        several = Tuning.from_dict(row["ladder"]["tuning"]) if "ladder" in row else None
        configs = low_modes(study.last_stage, choice, several)
        costs = {FULL: 1.0, **{mode: cost["median"] for mode, cost in row["costs"].items()}}
        found = [*full_lengths(study.epochs), *one_low_mode(study.epochs)]
        found += tuned(choice, study.epochs, study.variations) if choice is not None else []
        found += longer_low(study.key)
        if set(configs) <= set(costs):
            found += ladders(study.network, study.epochs, study.images // BATCH, costs, several)
        return cls(found, configs, costs)
