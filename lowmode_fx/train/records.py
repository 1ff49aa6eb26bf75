"""What a run measures: one record an epoch, and the result over all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class EpochRecord:
    """One epoch (from 0). Times are seconds of training alone: no evaluation, no compilation, no checkpoint.

    `total_seconds` sums them up to this epoch's end; `val_accuracy` is a share in [0, 1]; `lr` is the last step's.
    """

    epoch: int
    seconds: float
    total_seconds: float
    train_loss: float
    val_accuracy: float
    low_steps: int
    full_steps: int
    lr: float


@dataclass(frozen=True)
class RunResult:
    """A run, or the part of it up to an interruption. `interrupted` is the number of the signal that ended it, or 0."""

    label: str
    records: tuple[EpochRecord, ...]
    compile_seconds: float
    interrupted: int = 0

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
    def low_steps(self) -> int:
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
            "train_seconds": round(self.train_seconds, 3),
            "compile_seconds": round(self.compile_seconds, 3),
            "low_steps": self.low_steps,
            "full_steps": self.full_steps,
        }


def records_to_csv(runs: Mapping[str, Sequence[EpochRecord]]) -> str:
    """All epochs of all runs as CSV text, the run's name in the first column."""
    text = io.StringIO()
    names = [field.name for field in fields(EpochRecord)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *names])
    for run, records in runs.items():
        for record in records:
            values = asdict(record).values()
            writer.writerow([run, *(f"{value:.6g}" if isinstance(value, float) else value for value in values)])
    return text.getvalue()
