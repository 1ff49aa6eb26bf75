"""``--handle``: macs of operators that fvcore and this package don't count, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lowmode_fx.counting.handles import Handle, macs_per_value
from lowmode_fx.utils.imports import import_named
from lowmode_fx.utils.validation import as_number
from passes.errors import OptionError
from passes.spelling import setting

if TYPE_CHECKING:
    from lowmode_fx.counting.report import FlopReport
    from lowmode_fx.lowering.ladder import Ladder

HandleOption = Annotated[
    list[str] | None,
    typer.Option(
        help="How to count an operator that has no formula: aten::op=macs per value that it returns (0: free), or "
        "aten::op=package.module:callable, an fvcore handle. May be given several times."
    ),
]
Handles = Mapping[str, Handle | None]


def read_handles(texts: Sequence[str] | None) -> Handles:
    """Each of ``op=macs`` and ``op=package.module:callable``. Raises ``ValueError`` for anything else."""
    return dict(_read(text) for text in texts or ())


def counted(ladder: Ladder, handles: Handles) -> FlopReport:
    """``count_flops``, which asks for the option where an operator isn't counted: a ``ValueError``."""
    from lowmode_fx.counting.forward import UncountedError, count_flops

    try:
        return count_flops(ladder, handles=handles)
    except UncountedError as error:
        raise ValueError(
            f"{error.operator} is neither counted nor known to be free; give --handle {error.operator}=MACS, for each "
            "value that it returns, or 0 if it multiplies nothing"
        ) from None


def _read(text: str) -> tuple[str, Handle | None]:
    operator, _, given = text.partition("=")
    if "::" not in operator or not given:
        raise OptionError("handle", text, "is no operator with its macs", "give such as aten::cumprod=1")
    if ":" in given:
        found: Handle = import_named(given, setting("handle"))
        return operator, found
    try:
        macs = as_number("macs", float(given), least=0)
    except ValueError:
        problem = f"has {given!r}, which is no number of macs"
        raise OptionError("handle", text, problem, "give 0 or more, or a callable") from None
    return operator, macs_per_value(macs) if macs else None
