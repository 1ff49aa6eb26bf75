"""``--batch-multiplier`` and ``--lr-rule``: batches that grow as images shrink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from lowmode_fx.cli.options import comma_list
from lowmode_fx.utils.validation import as_choice, as_multiplier
from passes.errors import OptionError

#: Of ``runtime/batch_growth.py``, which is known only once torch is.
LrRule = Literal["linear", "sqrt", "none"]
BatchMultiplier = float | Mapping[str, float] | Literal["pixels"]


def read_batch_multiplier(text: str | None, modes: Sequence[str]) -> BatchMultiplier:
    """The multiplier that ``--batch-multiplier`` describes; ``modes``: names of the low modes, cheapest first.

    Raises ``ValueError`` for text that is neither ``pixels`` nor one number, or one for each low mode.
    """
    if text is None:
        return 1.0
    if text == "pixels":
        return "pixels"
    values = _numbers(text, "give pixels, 4, or such as 4,1.75")
    if len(values) == 1:
        return values[0]
    if len(values) != len(modes):
        problem = f"gives {len(values)} for {len(modes)} low mode{'s' * (len(modes) != 1)}, {', '.join(modes)}"
        raise OptionError("batch_multiplier", text, problem, "give one for all, or one for each")
    return dict(zip(modes, values, strict=True))


def read_one_multiplier(text: str) -> float | Literal["pixels"]:
    """The multiplier of all low modes. Raises ``ValueError`` for text that is neither ``pixels`` nor one number."""
    if text == "pixels":
        return "pixels"
    hint = "give pixels, or one number, as 4"
    values = _numbers(text, hint)
    if len(values) > 1:
        raise OptionError("batch_multiplier", text, "is a list", hint)
    return values[0]


def _numbers(text: str, hint: str) -> list[float]:
    try:
        values = [float(part) for part in comma_list(text, "batch_multiplier")]
    except ValueError:
        raise OptionError("batch_multiplier", text, "is no number", hint) from None
    return [as_multiplier(value) for value in values]


def lr_rule(given: str | None, optimizer: str) -> LrRule:
    """The rule given; else that of timm's script: the square root for Adam and its kin, linear for others."""
    if given is not None:
        return cast(LrRule, as_choice("lr_rule", given, ("linear", "sqrt", "none")))
    return "sqrt" if any(name in optimizer.lower() for name in ("ada", "lamb")) else "linear"


def planned_rule(planned: LrRule, optimizer: str, tuned: Path) -> tuple[LrRule, str]:
    """The rule of a plan's larger batches, and a note where it is another than the plan's; else an empty one.

    Plans are measured with SGD. Their linear rule is none for Adam and its kin, which has its own.
    """
    own = lr_rule(None, optimizer)
    if planned != "linear" or own == planned:
        return planned, ""
    return own, (
        f"note: --lr-rule is {own}, as usual with {optimizer}: {tuned} plans {planned}, measured with SGD; give "
        f"--lr-rule {planned} for that"
    )


def batches_grow(multiplier: BatchMultiplier) -> bool:
    """Whether batches of a low mode are larger, of images that shrink."""
    return multiplier != 1 and (not isinstance(multiplier, Mapping) or any(each != 1 for each in multiplier.values()))
