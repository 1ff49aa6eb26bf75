"""``Tuning``: what the tuner chose and why, also as JSON, from which a run is made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import nn

from lowmode_fx.capture.images import Argument
from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.ladder import Ladder
from lowmode_fx.lowering.pair import build_ladder
from lowmode_fx.runtime.batch_growth import LrRule
from lowmode_fx.runtime.schedules import BernoulliSchedule, LadderSchedule, schedule_from_dict
from lowmode_fx.tuning.candidate import Candidate

#: How a message of other values begins.
NO_RESULT = "not a result of `lowmode-fx tune`: "


@dataclass(frozen=True)
class Tuning:
    """The result of ``tune``: low modes, a schedule, a weight for low gradients, and the reasons.

    Attributes:
        config: Configuration of the cheapest low mode.
        schedule: The schedule over ``epochs`` epochs.
        low_weight: Factor of the gradients of low steps, for ``LowModeModel``; by mode if those of a ladder differ.
        epochs: Number of epochs of the run.
        time: Predicted time, as a share of the time of the full run that it is to match.
        reasons: Why this was chosen, one line each.
        candidates: All measured configurations, best first.
        refused: Configurations without a correct low mode, with the reasons.
        more: Configurations of the other low modes, in order of cost.
        batch_multiplier: Images of a low step over those of a full one, for ``LowModeModel``; 1 unless ``tune`` was
            asked to try larger batches. By mode if those of a ladder grow.
        lr_rule: What a larger batch's learning rate follows, for ``LowModeModel``.
        measured_on: Plain values that describe the model and the data, if the caller of ``tune`` noted them.
    """

    config: LowModeConfig
    schedule: BernoulliSchedule | LadderSchedule
    low_weight: float | Mapping[str, float]
    epochs: int
    time: float
    more: tuple[LowModeConfig, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    reasons: tuple[str, ...] = ()
    batch_multiplier: float | Mapping[str, float] = 1.0
    lr_rule: LrRule = "linear"
    measured_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def configs(self) -> tuple[LowModeConfig, ...]:
        """Configurations of every low mode, cheapest first."""
        return self.config, *self.more

    def build(self, model: nn.Module, example: Any, *, images: Argument | Iterable[Argument] | None = None) -> Ladder:
        """Build the ladder that the schedule is for, as ``build_ladder`` does.

        Args:
            model: The model.
            example: What ``forward`` takes in full-mode.
            images: The arguments that hold images, as in ``build_ladder``.

        Returns:
            The ladder, or the pair for a single low mode.
        """
        return build_ladder(model, example, self.configs, images=images)

    def to_dict(self) -> dict[str, Any]:
        """Return what a run needs as JSON's values, without the candidates."""
        return {
            "config": self.config.to_dict(),
            "more": [config.to_dict() for config in self.more],
            "schedule": self.schedule.to_dict(),
            "low_weight": _plain(self.low_weight),
            "batch_multiplier": _plain(self.batch_multiplier),
            "lr_rule": self.lr_rule,
            "epochs": self.epochs,
            "time": self.time,
            "reasons": list(self.reasons),
            **({"measured_on": dict(self.measured_on)} if self.measured_on else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tuning:
        """Make a ``Tuning`` from ``to_dict()``'s values.

        Raises:
            ValueError: ``tune`` did not write these values.
        """
        try:
            config, schedule = LowModeConfig.from_dict(values["config"]), schedule_from_dict(values["schedule"])
            more = tuple(map(LowModeConfig.from_dict, values.get("more", ())))
            weight, epochs, predicted = values["low_weight"], values["epochs"], values["time"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{NO_RESULT}{error} is missing or has the wrong type") from error
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f"{NO_RESULT}its epochs is {epochs!r}; give an int of at least 1")
        if not isinstance(schedule, LadderSchedule if more else BernoulliSchedule):
            kind = "a ladder's" if more else "Bernoulli's"
            raise ValueError(f"{NO_RESULT}its schedule is not {kind}")
        reasons, source = tuple(values.get("reasons", ())), values.get("measured_on", {})
        multiplier = values.get("batch_multiplier", 1.0)
        for name, value in {"low_weight": weight, "batch_multiplier": multiplier}.items():
            numbers = value.values() if isinstance(value, Mapping) else [value]
            if not numbers or any(isinstance(each, bool) or not isinstance(each, int | float) for each in numbers):
                raise ValueError(f"{NO_RESULT}its {name} is {value!r}; give a number")
        rule = values.get("lr_rule", "linear")
        if rule not in get_args(LrRule):
            raise ValueError(f"{NO_RESULT}its lr_rule is {rule!r}; give linear, sqrt or none")
        if not isinstance(source, Mapping):
            raise ValueError(f"{NO_RESULT}its measured_on is not a mapping")
        return cls(
            config,
            schedule,
            weight,
            epochs,
            predicted,
            more,
            reasons=reasons,
            batch_multiplier=multiplier,
            lr_rule=rule,
            measured_on=source,
        )

    def to_json(self) -> str:
        """Return ``to_dict()`` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)


def _plain(value: float | Mapping[str, float]) -> float | dict[str, float]:
    return dict(value) if isinstance(value, Mapping) else value
