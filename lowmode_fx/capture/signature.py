"""Calls of a model's ``forward``: bound to its parameters, and rewritten in the form of another call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from inspect import BoundArguments, Parameter, Signature
from typing import Any

from torch import Tensor, nn

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
#: Signature of compiled code, whose parameters are unknown.
_ANYTHING = Signature([Parameter("input", Parameter.VAR_POSITIONAL), Parameter("options", Parameter.VAR_KEYWORD)])


def bind_call(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundArguments:
    """Bind a call to the parameters, including defaults. Raises ``ValueError`` if ``forward`` does not take it."""
    try:
        signature = inspect.signature(model.forward)
    except ValueError:
        signature = _ANYTHING
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        try:  # a decorator may take other arguments than the function that it wraps
            bound = inspect.signature(model.forward, follow_wrapped=False).bind(*args, **kwargs)
        except TypeError:
            kind = type(model).__name__
            raise ValueError(
                f"{kind}.forward({_parameters(signature)}) does not take these arguments: {error}{_batch_hint(args)}"
            ) from None
    bound.apply_defaults()
    return bound


def optional_arguments(model: nn.Module) -> list[str]:
    """Names of the parameters of ``forward`` that may be left out: they are ``None`` by default."""
    try:
        parameters = inspect.signature(model.forward).parameters
    except ValueError:
        return []
    return [name for name, each in parameters.items() if each.default is None]


def _batch_hint(args: Sequence[Any]) -> str:
    """What to do if the arguments seem to be a list of images, or a loader's batch, images and labels."""
    if len(args) > 1 and all(isinstance(value, Tensor) and value.ndim == 3 for value in args):
        return " (of a list of images, give torch.stack(images))"
    labels = args[1] if len(args) == 2 else None
    if not isinstance(labels, Tensor) or labels.ndim > 1 or labels.is_floating_point():
        return ""
    return " (of a batch of images and labels, give the images alone)"


def respell(bound: BoundArguments, positional: int, keywords: Sequence[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with this number of positional arguments, and these keywords.

    Raises ``KeyError`` if an argument that is not a default would be left out.
    """
    by_place: list[tuple[str, Any]] = []
    by_name: dict[str, Any] = {}
    for name, parameter in bound.signature.parameters.items():
        value = bound.arguments[name]
        if parameter.kind is Parameter.VAR_POSITIONAL:
            by_place += [("", each) for each in value]
        elif parameter.kind is Parameter.VAR_KEYWORD:
            by_name |= value
        else:
            by_name[name] = value
            if parameter.kind in _POSITIONAL:
                by_place.append((name, value))
    if len(by_place) < positional:
        raise KeyError(positional)
    given = {name for name, _ in by_place[:positional]} | set(keywords)
    for name, value in (*by_place[positional:], *by_name.items()):
        if name not in given and not (name in bound.signature.parameters and is_same(value, _default(bound, name))):
            raise KeyError(name)
    return tuple(value for _, value in by_place[:positional]), {name: by_name[name] for name in keywords}


def positional_names(bound: BoundArguments, positional: int) -> list[str]:
    """Names of the first positional arguments: their parameters', or numbered ones after the name of ``*args``."""
    parameters = bound.signature.parameters.values()
    names = [each.name for each in parameters if each.kind in _POSITIONAL]
    rest = next((each.name for each in parameters if each.kind is Parameter.VAR_POSITIONAL), "")
    return [names[place] if place < len(names) else f"{rest}.{place - len(names)}" for place in range(positional)]


def place_of(bound: BoundArguments, name: str) -> int | None:
    """Position of the argument of this name; ``None`` if it is keyword-only."""
    names = [each.name for each in bound.signature.parameters.values() if each.kind in _POSITIONAL]
    return names.index(name) if name in names else None


def is_same(ours: Any, theirs: Any) -> bool:
    """Whether two values that are not tensors mean the same to a model."""
    if ours is theirs:
        return True
    try:
        return type(ours) is type(theirs) and bool(ours == theirs)
    except (RuntimeError, TypeError, ValueError):  # arrays, which compare element by element
        return False


def _default(bound: BoundArguments, name: str) -> Any:
    return bound.signature.parameters[name].default


def _parameters(signature: Signature) -> str:
    """The parameters without their types: ``images, *, scale=1.0``."""
    plain = [each.replace(annotation=Parameter.empty) for each in signature.parameters.values()]
    return " ".join(str(Signature(plain))[1:-1].split())
