"""The contract of a pass, its report, and the runner that applies a tuple of passes.

A pass is a function ``(graph_module, context, *, options) -> PassReport``, marked by ``graph_pass`` with the conditions
that it requires and ensures. It rewires the graph in place and reports what it changed and what it skipped. Options are
bound with ``functools.partial``, so the runner does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ParamSpec, Protocol

from torch import Tensor, fx

from passes.binding import shares_registries
from passes.errors import PassError


@dataclass(frozen=True)
class Change:
    """One site that a pass rewrote.

    Attributes:
        site: Path of the module, or name of the node.
        node: Name of the node.
        before: What it was, in words (``3×3``).
        after: What it became (``1×1``).
    """

    site: str
    node: str
    before: str
    after: str


@dataclass(frozen=True)
class Skip:
    """One site that a pass left unchanged.

    Attributes:
        site: Path of the module, or name of the node.
        node: Name of the node.
        reason: Why it was skipped.
    """

    site: str
    node: str
    reason: str


@dataclass(frozen=True)
class PassReport:
    """What one pass did: every site of its kind is either changed or skipped.

    Attributes:
        name: Name of the pass.
        changes: The sites that it rewrote.
        skips: The sites that it left unchanged.
    """

    name: str
    changes: tuple[Change, ...] = ()
    skips: tuple[Skip, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self)


@dataclass
class PassContext:
    """What passes share besides the graph that they rewrite.

    Attributes:
        full: The full-mode graph, whose nodes hold their shapes (``passes.shapes``).
        inputs: Low-mode's example inputs in the order of the placeholders; only shapes, dtypes and devices matter.
        any_size: Whether the graphs hold for images of any size.
        reports: The reports of the passes that have run.
    """

    full: fx.GraphModule
    inputs: tuple[Tensor, ...]
    any_size: bool = True
    reports: list[PassReport] = field(default_factory=list)

    def report(self, name: str) -> PassReport:
        """Return the report of a pass; an empty one if it has not run.

        Args:
            name: Name of the pass.
        """
        return next((report for report in self.reports if report.name == name), PassReport(name))


class GraphPass(Protocol):
    """Protocol of a pass whose options are bound."""

    def __call__(self, graph_module: fx.GraphModule, context: PassContext, /) -> PassReport: ...


#: Raises ``AssertionError`` (a bug here) or ``PassError`` (no correct low mode for this model) if it does not hold.
Condition = Callable[[fx.GraphModule, PassContext], None]
_Arguments = ParamSpec("_Arguments")


def graph_pass(
    *, requires: Sequence[Condition] = (), ensures: Sequence[Condition] = ()
) -> Callable[[Callable[_Arguments, PassReport]], Callable[_Arguments, PassReport]]:
    """Mark a function as a pass.

    Args:
        requires: Conditions that are checked before the pass runs.
        ensures: Conditions that are checked on the result of all passes.

    Returns:
        A decorator for ``(graph_module, context, *, options) -> PassReport``.
    """

    def mark(function: Callable[_Arguments, PassReport]) -> Callable[_Arguments, PassReport]:
        function.requires, function.ensures = tuple(requires), tuple(ensures)  # type: ignore[attr-defined]
        return function

    return mark


def run_passes(graph_module: fx.GraphModule, passes: Sequence[GraphPass], context: PassContext) -> None:
    """Apply passes in order to a graph, in place, and check their conditions on the result.

    Args:
        graph_module: The graph.
        passes: The passes, with their options bound.
        context: The full-mode graph and the inputs. The reports are appended to ``context.reports``.

    Raises:
        PassError: A pass refuses the model (a ``ValueError``). ``graph_pass`` of the error, and a note on it, name the
            pass.
        AssertionError: A condition does not hold.
    """
    definitions: list[Any] = [getattr(each, "func", each) for each in passes]
    for each, definition in zip(passes, definitions, strict=True):
        with _named(definition):
            for condition in definition.requires:
                condition(graph_module, context)
            report = each(graph_module, context)
            assert shares_registries(graph_module, context.full), "a pass replaced a registry that is the model's own"
            context.reports.append(report)
    graph_module.graph.eliminate_dead_code(is_impure_node=_keep)
    graph_module.graph.lint()
    graph_module.recompile()
    for definition in definitions:
        with _named(definition):
            for condition in definition.ensures:
                condition(graph_module, context)


class _named:
    """Errors inside get the name of the pass."""

    def __init__(self, definition: Any) -> None:
        self._name = definition.__name__

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            error.add_note(f"in the graph pass {self._name}")
        if isinstance(error, PassError):
            error.graph_pass = error.graph_pass or self._name


def _keep(node: fx.Node) -> bool:
    # Only what rewiring left unused is removed: tensors without readers. Calls stay, for their side effects.
    return node.op != "get_attr"
