"""What a pass is, what it says of its work, and the runner that applies a visible tuple of them.

A pass is a plain function ``(graph_module, *, options) -> PassReport``: it rewires the graph in place and says what it
changed and what it skipped. Options are bound with ``functools.partial``, so the runner knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx

from passes.checks import check_graph


@dataclass(frozen=True)
class Change:
    """One site that a pass rewrote: ``before`` and ``after`` as a person would say it (``3×3`` and ``1×1``)."""

    site: str
    node: str
    before: str
    after: str


@dataclass(frozen=True)
class Skip:
    """One site that a pass left alone, and why."""

    site: str
    node: str
    reason: str


@dataclass(frozen=True)
class PassReport:
    """What one pass did: every site of its kind is either changed or skipped."""

    name: str
    changes: tuple[Change, ...] = ()
    skips: tuple[Skip, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


GraphPass = Callable[[fx.GraphModule], PassReport]


def run_passes(graph_module: fx.GraphModule, passes: Sequence[GraphPass]) -> tuple[PassReport, ...]:
    """Apply ``passes`` in order to ``graph_module``, in place; lint after each that changed it, recompile once.

    Raises ``PassError`` (a ``ValueError``) from a pass that refuses.
    """
    reports = []
    for graph_pass in passes:
        reports.append(graph_pass(graph_module))
        if reports[-1].changes:
            check_graph(graph_module)
    graph_module.graph.eliminate_dead_code(is_impure_node=_keep)
    graph_module.recompile()
    return tuple(reports)


def _keep(node: fx.Node) -> bool:
    # Only what rewiring left behind goes: tensors that nobody reads any more. Calls stay, for their side effects.
    return node.op != "get_attr"
