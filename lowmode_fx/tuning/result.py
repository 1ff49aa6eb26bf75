"""``Tuning``: what the tuner chose and why; and the same as JSON, from which a run is made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lowmode_fx.capture.images import Argument
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.pair import build_ladder
from lowmode_fx.runtime.schedules import BernoulliSchedule, LadderSchedule, schedule_from_dict
from lowmode_fx.tuning.search import Candidate


@dataclass(frozen=True)
class Tuning:
    """What the tuner chose: low modes, a schedule over ``epochs`` epochs, a weight for low gradients; and why.

    ``config``: of the cheapest low mode. ``more``: of the others, rising in cost. ``time``: predicted, as a share of
    the time of the full run that it is to match. ``candidates``: all that was measured, best first. ``refused``:
    configurations that give no pair, with the reason. ``measured_on``: plain values that tell the model and the data,
    if whoever called ``tune`` noted them.
    """

    config: LowModeConfig
    schedule: BernoulliSchedule | LadderSchedule
    low_weight: float
    epochs: int
    time: float
    more: tuple[LowModeConfig, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    reasons: tuple[str, ...] = ()
    measured_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def configs(self) -> tuple[LowModeConfig, ...]:
        """Of every low mode, the cheapest first."""
        return self.config, *self.more

    def build(self, model: nn.Module, example: Any, *, images: Argument | Iterable[Argument] | None = None) -> Ladder:
        """The ladder that the schedule is for, as ``build_ladder`` makes it."""
        return build_ladder(model, example, self.configs, images=images)

    def to_dict(self) -> dict[str, Any]:
        """What a run needs, in JSON's values; not the candidates."""
        return {
            "config": self.config.to_dict(),
            "more": [config.to_dict() for config in self.more],
            "schedule": self.schedule.to_dict(),
            "low_weight": self.low_weight,
            "epochs": self.epochs,
            "time": self.time,
            "reasons": list(self.reasons),
            **({"measured_on": dict(self.measured_on)} if self.measured_on else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tuning:
        """The inverse of ``to_dict``. Raises ``ValueError`` for what ``tune`` did not write."""
        try:
            config, schedule = LowModeConfig.from_dict(values["config"]), schedule_from_dict(values["schedule"])
            more = tuple(map(LowModeConfig.from_dict, values.get("more", ())))
            weight, epochs, predicted = values["low_weight"], values["epochs"], values["time"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"no result of `lowmode-fx tune`: {error} is missing or of another kind") from error
        if not isinstance(schedule, LadderSchedule if more else BernoulliSchedule):
            kind = "a ladder's" if more else "Bernoulli's"
            raise ValueError(f"no result of `lowmode-fx tune`: its schedule is not {kind}")
        reasons, source = tuple(values.get("reasons", ())), values.get("measured_on", {})
        if not isinstance(source, Mapping):
            raise ValueError("no result of `lowmode-fx tune`: its measured_on is no mapping")
        return cls(config, schedule, weight, epochs, predicted, more, reasons=reasons, measured_on=source)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)
