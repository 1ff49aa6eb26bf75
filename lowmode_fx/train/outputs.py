"""What a classifier returns: which of its outputs are the logits, and which those of auxiliary heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from passes.spelling import setting

_LOGITS = ("logits", "out")
_AUXILIARY = "aux"


def logits_of(output: Any) -> Tensor:
    """A model's logits ``(N, classes)``: the output itself, the one that is named so, or the first of several.

    Raises ``ValueError`` for anything else.
    """
    named = _by_name(output)
    if named is not None:
        return named[0]
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor):
        raise ValueError(f"model returns {_shown(output)}, of which none is known as logits; {_way_out()}")
    return first


def split_outputs(output: Any) -> tuple[Tensor, list[Tensor]]:
    """A model's logits and those of its auxiliary heads, each ``(N, classes)``.

    Heads are known by name (torchvision's ``aux_logits``, a dictionary's or dataclass's ``aux…``) or, in a plain tuple,
    by being as wide as the logits, as timm's distilled models return them.

    Raises ``ValueError`` for a tuple that holds anything else, or an ``aux…`` that is anything else, such as a loss:
    without it, or with a loss on it, another thing would be trained than the model is made for.
    """
    named = _by_name(output)
    if named is not None:
        logits, heads = named
        for name, head in heads.items():
            if not isinstance(head, Tensor) or head.shape != logits.shape:
                raise ValueError(
                    f"model returns {name!r}, {_shown(head)}, and only outputs as wide as the logits "
                    f"{tuple(logits.shape)} are auxiliary heads; {_way_out()}"
                )
        return logits, list(heads.values())
    logits = logits_of(output)
    others = list(output[1:]) if isinstance(output, tuple | list) else []
    if any(not isinstance(other, Tensor) or other.shape != logits.shape for other in others):
        raise ValueError(
            f"model returns {_shown(output)}, and only outputs as wide as the first are heads; {_way_out()}"
        )
    return logits, others


def _way_out() -> str:
    own = setting("criterion", "package.module:callable")
    return f"return the logits alone, or give {own}, which takes outputs and labels"


def _by_name(output: Any) -> tuple[Tensor, dict[str, Any]] | None:
    """Logits of an output whose parts have names, where one is named logits, and what is named auxiliary, by name."""
    parts: Mapping[str, Any] = {}
    if isinstance(output, Mapping):
        parts = output
    elif is_dataclass(output) and not isinstance(output, type):
        parts = {field.name: getattr(output, field.name) for field in fields(output)}
    elif hasattr(output, "_asdict"):
        parts = output._asdict()
    logits = next((parts[name] for name in _LOGITS if isinstance(parts.get(name), Tensor)), None)
    if logits is None:
        return None
    named = ((str(name), value) for name, value in parts.items() if value is not None)
    return logits, {name: value for name, value in named if name.startswith(_AUXILIARY)}


def _shown(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(str, output))}"
    if isinstance(output, tuple | list):
        kinds = [str(tuple(each.shape)) if isinstance(each, Tensor) else type(each).__name__ for each in output]
        return f"a {type(output).__name__} of {', '.join(kinds)}"
    return f"a {type(output).__name__}"
