"""What a run measures: one record an epoch, and the result over all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lowmode_fx.lowering.mode import Mode

_FULL, _LOW = str(Mode.FULL), str(Mode.LOW)
#: Columns that every run's metrics have, in their order; behind them stands one a mode, with its steps.
COLUMNS = (
    *("epoch", "seconds", "total_seconds", "train_loss", "val_accuracy"),
    *("low_steps", "full_steps", "lr"),
)


@dataclass(frozen=True)
class EpochRecord:
    """One epoch (from 0). Times are seconds of training alone: no evaluation, no compilation, no checkpoint.

    ``total_seconds``: their sum up to this epoch's end. ``val_accuracy``: a share in [0, 1]. ``steps``: how many, by
    the names of the run's modes, the cheapest first. ``lr``: the last step's. ``loading_seconds``: what of ``seconds``
    the device spent on getting its batches, or waited for them. ``mode_seconds``: what all steps of each mode took.
    """

    epoch: int
    seconds: float
    total_seconds: float
    train_loss: float
    val_accuracy: float
    steps: Mapping[str, int]
    lr: float
    loading_seconds: float = 0.0
    mode_seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EpochRecord:
        """A record that a checkpoint holds; older ones count steps of two modes, ``low_steps`` and ``full_steps``."""
        values = dict(values)
        if "steps" not in values:
            values["steps"] = {_LOW: values.pop("low_steps"), _FULL: values.pop("full_steps")}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``from_dict``."""
        return {**vars(self), "steps": dict(self.steps), "mode_seconds": dict(self.mode_seconds)}

    @property
    def step_seconds(self) -> dict[str, float]:
        """Seconds of a step, by mode, of those that ran."""
        return {mode: self.mode_seconds[mode] / n for mode, n in self.steps.items() if n and mode in self.mode_seconds}

    @property
    def low_steps(self) -> int:
        """Steps that were not full."""
        return sum(self.steps.values()) - self.full_steps

    @property
    def full_steps(self) -> int:
        return self.steps.get(_FULL, 0)


def unfinished_steps(state: Mapping[str, Any]) -> dict[str, int]:
    """Steps by mode of the epoch that a checkpoint stopped in; older ones count those of a pair's low mode alone."""
    if "mode_steps" in state:
        return dict(state["mode_steps"])
    return {_LOW: state["low_steps"], _FULL: state["step"] - state["low_steps"]}


@dataclass(frozen=True)
class RunResult:
    """A run, or the part of it up to an interruption.

    ``interrupted``: the number of the signal that ended it, or 0. ``test_accuracy``: after the last epoch, on images
    that no epoch was validated on, where there are some.
    """

    label: str
    records: tuple[EpochRecord, ...]
    compile_seconds: float
    interrupted: int = 0
    test_accuracy: float | None = None

    @property
    def final_accuracy(self) -> float:
        return self.records[-1].val_accuracy if self.records else 0.0

    @property
    def best_accuracy(self) -> float:
        return max((record.val_accuracy for record in self.records), default=0.0)

    @property
    def train_seconds(self) -> float:
        return self.records[-1].total_seconds if self.records else 0.0

    @property
    def loading_share(self) -> float:
        """Of the training time, the share that getting batches took, in [0, 1]."""
        loading = sum(record.loading_seconds for record in self.records)
        return loading / self.train_seconds if self.train_seconds else 0.0

    @property
    def steps(self) -> dict[str, int]:
        """Steps of the whole run by the names of its modes, the cheapest first."""
        modes = modes_of(self.records)
        return {mode: sum(record.steps.get(mode, 0) for record in self.records) for mode in modes}

    @property
    def step_seconds(self) -> dict[str, float]:
        """Seconds of a step of the whole run, by mode, of those that ran."""
        spent = {mode: sum(record.mode_seconds.get(mode, 0.0) for record in self.records) for mode in self.steps}
        return {mode: spent[mode] / count for mode, count in self.steps.items() if count and spent[mode]}

    @property
    def low_steps(self) -> int:
        """Steps that were not full."""
        return sum(record.low_steps for record in self.records)

    @property
    def full_steps(self) -> int:
        return sum(record.full_steps for record in self.records)

    def summary(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "epochs": len(self.records),
            "final_accuracy": self.final_accuracy,
            "best_accuracy": self.best_accuracy,
            **({} if self.test_accuracy is None else {"test_accuracy": self.test_accuracy}),
            "train_seconds": round(self.train_seconds, 3),
            "compile_seconds": round(self.compile_seconds, 3),
            "loading_share": round(self.loading_share, 4),
            "low_steps": self.low_steps,
            "full_steps": self.full_steps,
            "steps": self.steps,
            "step_seconds": {mode: round(seconds, 6) for mode, seconds in self.step_seconds.items()},
        }


def modes_of(records: Iterable[EpochRecord]) -> list[str]:
    """The names of the modes that the records count steps of, in their order, ``full`` last."""
    names = dict.fromkeys(mode for record in records for mode in record.steps)
    return sorted(names, key=lambda mode: mode == _FULL)


def records_to_csv(runs: Mapping[str, Sequence[EpochRecord]]) -> str:
    """All epochs of all runs as CSV text, the run's name in the first column; ``steps_r2`` counts the steps of mode r2.

    ``low_steps`` counts all that were not full; a run without a mode has no steps of it.
    """
    text = io.StringIO()
    modes = modes_of(record for records in runs.values() for record in records)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *COLUMNS, *(f"steps_{mode}" for mode in modes)])
    for run, records in runs.items():
        for record in records:
            values = [getattr(record, column) for column in COLUMNS] + [record.steps.get(mode, 0) for mode in modes]
            writer.writerow([run, *(f"{value:.6g}" if isinstance(value, float) else value for value in values)])
    return text.getvalue()
