"""What is wrong with a state dict that a model does not load, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from passes.wording import sides

#: How many names a message holds of those that differ.
_MOST = 3


def loading_problem(model: nn.Module, state_dict: Mapping[str, Any]) -> str:
    """What differs between a state dict and the model's own, and what to do; empty if no key and no shape does."""
    wanted = model.state_dict()
    kind, theirs = type(model).__name__, list(state_dict)
    for name, part in state_dict.items():
        if (
            isinstance(part, Mapping)
            and name not in wanted
            and (set(part) & set(wanted) or _prefix([*part], [*wanted]))
        ):
            return f"state_dict holds a state dict of {kind} as {name!r}; give state_dict[{name!r}]"
    prefix = _prefix(theirs, list(wanted))
    if prefix:
        return (
            f"the keys of state_dict begin with {prefix!r} and those of {kind} don't; give "
            f"{{key.removeprefix({prefix!r}): value for key, value in state_dict.items()}}"
        )
    missing = [name for name in wanted if name not in state_dict]
    unknown = [name for name in theirs if name not in wanted]
    shapes = [
        f"{name} ({sides(value.shape) or 'one number'}, here {sides(wanted[name].shape) or 'one number'})"
        for name, value in state_dict.items()
        if isinstance(value, Tensor) and isinstance(wanted.get(name), Tensor) and value.shape != wanted[name].shape
    ]
    differences = {"it lacks": missing, "it has the unknown": unknown, "of another shape are": shapes}
    told = ", ".join(f"{words} {_some(names)}" for words, names in differences.items() if names)
    if not told:
        return ""
    leave_out = "without those of another shape, and " if shapes else ""
    return (
        f"state_dict is of another model than {kind}: {told}; give one of this model, or, to load what fits, "
        f"{leave_out}with strict=False"
    )


def _prefix(given: Sequence[str], wanted: Sequence[str]) -> str:
    """What wrappers have put before every key, ``module.`` or ``net.``; empty if that is not the difference."""
    if not given or not wanted or given[0] in wanted:
        return ""
    found = next((given[0].removesuffix(name) for name in wanted if given[0].endswith(f".{name}")), "")
    return found if found and {f"{found}{name}" for name in wanted} <= set(given) else ""


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST
    return f"{', '.join(names[:_MOST])}{f' and {more} more' if more > 0 else ''}"
