"""Errors of this package: a model without a correct low mode, and an invalid argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from passes.spelling import NO_VALUE, setting


@dataclass(frozen=True)
class Way:
    """What may help a refused model: ``text``, and the ``options`` of its low mode that it asks for, if any."""

    text: str
    options: Mapping[str, Any] = field(default_factory=dict)


class PassError(ValueError):
    """No correct low mode exists for this model and configuration: which node, why, and what to do.

    Attributes:
        graph_pass: Name of the pass that refused the model; empty if no pass did.
        problem: What does not fit, and where.
        ways: What may help. Passes don't know an option's effect: who lowers a model offers those that help.
    """

    graph_pass: str = ""

    def __init__(self, problem: str, *ways: Way) -> None:
        super().__init__(problem)
        self.problem, self.ways = problem, ways

    def offer(self, ways: Sequence[Way]) -> None:
        """Offer these ways only."""
        self.ways = tuple(ways)

    def __str__(self) -> str:
        *others, last = (way.text for way in self.ways) if self.ways else ("",)
        return "; ".join(filter(None, [self.problem, f"{', '.join(others)}, or {last}" if others else last]))


class OptionError(ValueError):
    """An invalid argument: ``parameter``, its ``value``, the ``problem`` with it, and a ``hint`` what to give.

    In words: ``ratio=1 leaves images as they are; give one above 1``, and on a command line ``--ratio 1 leaves …``.
    ``value``: ``NO_VALUE`` if it would not help, or would fill the line.
    """

    def __init__(self, parameter: str, value: Any, problem: str, hint: str) -> None:
        super().__init__(parameter, value, problem, hint)
        self.parameter, self.value, self.problem, self.hint = parameter, value, problem, hint

    def __str__(self) -> str:
        return f"{setting(self.parameter, self.value)} {self.problem}; {self.hint}"


class OptionTypeError(OptionError, TypeError):
    """An argument of the wrong type."""


#: What keeps images at full size, so that only kernels are pooled.
WHOLE: Final[Mapping[str, Any]] = {"downsample_input": False}


def set_option(name: str, value: Any, effect: str) -> Way:
    """The way ``set adapt_head=True to …``. ``effect``: what it does, as ``to …``."""
    return Way(f"set {setting(name, value)} {effect}", {name: value})


def whole_images() -> Way:
    """The way that keeps images at full size."""
    return set_option(*next(iter(WHOLE.items())), "to pool kernels only")


__all__ = ["NO_VALUE", "WHOLE", "OptionError", "OptionTypeError", "PassError", "Way", "set_option", "whole_images"]
