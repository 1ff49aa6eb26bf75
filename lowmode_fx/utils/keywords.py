"""Misspelt keywords of public classes and functions are told with the names that they may have meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, TypeVar, cast

from passes.wording import near_matches_hint

_Public = TypeVar("_Public", bound=Callable[..., Any])
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def keywords_told(public: _Public) -> _Public:
    """Decorate a class or a function: calls with an unknown keyword raise a ``TypeError`` with near matches.

    Its signature stays. Warnings of the function, or of the class's ``__init__``, have one frame more to their caller.
    """
    if isinstance(public, type):
        public.__init__ = _checked(public.__init__, public.__name__)  # type: ignore[misc]
        return public
    return cast(_Public, _checked(public, public.__name__))


def _checked(function: Callable[..., Any], owner: str) -> Callable[..., Any]:
    parameters = inspect.signature(function).parameters.values()
    known = [each.name for each in parameters if each.kind in _NAMED and each.name != "self"]

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        unknown = next((name for name in kwargs if name not in known), None)
        if unknown is not None:
            raise TypeError(f"{owner} has no argument {unknown!r}; {near_matches_hint(unknown, known)}")
        return function(*args, **kwargs)

    return checked
