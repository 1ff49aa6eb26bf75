"""The errors of this package: a model that can't be made right, and an argument that can't be."""

from __future__ import annotations

from typing import Any

from passes.spelling import NO_VALUE, setting


class PassError(ValueError):
    """The pair that was asked for can't be made right: which node, why, what to do.

    ``graph_pass``: name of the pass that refused; empty where no pass did.
    """

    graph_pass: str = ""


class OptionError(ValueError):
    """An argument that can't be: ``parameter``, its ``value``, the ``problem`` with it, and a ``hint`` what to give.

    In words ``ratio=1 leaves images as they are; give one above 1``, and on a command line ``--ratio 1 leaves …``.
    value: ``NO_VALUE`` where it says nothing, or would fill the line.
    """

    def __init__(self, parameter: str, value: Any, problem: str, hint: str) -> None:
        super().__init__(parameter, value, problem, hint)
        self.parameter, self.value, self.problem, self.hint = parameter, value, problem, hint

    def __str__(self) -> str:
        return f"{setting(self.parameter, self.value)} {self.problem}; {self.hint}"


class OptionTypeError(OptionError, TypeError):
    """An argument of another kind than is taken."""


__all__ = ["NO_VALUE", "OptionError", "OptionTypeError", "PassError"]
