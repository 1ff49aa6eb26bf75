"""Errors of this package: a model without a correct low mode, and an invalid argument."""

from __future__ import annotations

from typing import Any

from passes.spelling import NO_VALUE, setting


class PassError(ValueError):
    """No correct low mode exists for this model and configuration: which node, why, and what to do.

    Attributes:
        graph_pass: Name of the pass that refused the model; empty if no pass did.
    """

    graph_pass: str = ""


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


__all__ = ["NO_VALUE", "OptionError", "OptionTypeError", "PassError"]
