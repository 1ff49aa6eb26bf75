"""What a tuning was measured on, and whether a run that uses it is of the same model and data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.errors import OptionError
from passes.wording import short

if TYPE_CHECKING:
    from lowmode_fx.train.splits import DataSplits


def measured_on(model: str, splits: DataSplits) -> dict[str, Any]:
    """What a tuning is valid for, as JSON values: the model's name, and what identifies the data set."""
    data = {"classes": list(splits.classes), "train_images": len(splits.train), "image_shape": [*splits.image_shape]}
    return {"model": model, "data": data}


def check_measured_on(tuned: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ``OptionError`` where a tuning was measured on something else, if its file records on what.

    now: what is known of the run, some or all of ``measured_on``.
    """
    found = difference({**now, **then}, now)
    if found:
        raise OptionError("tuned", tuned, f"was measured on something else: {found}", "tune again, or leave it out")


def difference(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """The first value in which two records differ, in words; empty where they agree."""
    for name in now:
        before, after = then.get(name), now[name]
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            if found := difference(before, after, f"{prefix}{name}."):
                return found
        elif before != after:
            return f"{prefix}{name} was {short(before)}, and is {short(after)}"
    return ""
