"""The one error of this package."""

from __future__ import annotations


class PassError(ValueError):
    """The pair that was asked for can't be made right: which node, why, what to do.

    ``graph_pass``: name of the pass that refused; empty where no pass did.
    """

    graph_pass: str = ""
