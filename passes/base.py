"""What a pass is, what it says of its work, and the runner that applies a visible tuple of them.

A pass is a function ``(graph_module, context, *, options) -> PassReport``, marked by ``graph_pass`` with what it
requires and what it ensures: it rewires the graph in place and says what it changed and what it skipped. Options are
bound with ``functools.partial``, so the runner knows none of them.
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


@dataclass
class PassContext:
    """What passes share beside the graph that they rewrite.

    full: the full-mode graph, whose nodes hold their shapes (``passes.shapes``). inputs: low-mode's example inputs in
    the order of the placeholders; only their shapes, dtypes and devices count. any_size: the graphs hold for images of
    any size. reports: of the passes that have run.
    """

    full: fx.GraphModule
    inputs: tuple[Tensor, ...]
    any_size: bool = True
    reports: list[PassReport] = field(default_factory=list)

    def report(self, name: str) -> PassReport:
        """What the pass of this name did; an empty report where it hasn't run."""
        return next((report for report in self.reports if report.name == name), PassReport(name))


class GraphPass(Protocol):
    """A pass whose options are bound."""

    def __call__(self, graph_module: fx.GraphModule, context: PassContext, /) -> PassReport: ...


#: Raises ``AssertionError`` (our mistake) or ``PassError`` (the model can't be made right) where it does not hold.
Condition = Callable[[fx.GraphModule, PassContext], None]
_Arguments = ParamSpec("_Arguments")


def graph_pass(
    *, requires: Sequence[Condition] = (), ensures: Sequence[Condition] = ()
) -> Callable[[Callable[_Arguments, PassReport]], Callable[_Arguments, PassReport]]:
    """Mark a function as a pass. ``requires`` is checked before it runs, ``ensures`` on the result of all passes."""

    def mark(function: Callable[_Arguments, PassReport]) -> Callable[_Arguments, PassReport]:
        function.requires, function.ensures = tuple(requires), tuple(ensures)  # type: ignore[attr-defined]
        return function

    return mark


def run_passes(graph_module: fx.GraphModule, passes: Sequence[GraphPass], context: PassContext) -> None:
    """Apply ``passes`` in order to ``graph_module``, in place, and check what they ensure on the result.

    The reports are left in ``context.reports``. Raises ``PassError`` (a ``ValueError``) from a pass that refuses and
    ``AssertionError`` where a condition fails; ``graph_pass`` of the error, and a note on it, name the pass.
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
    """Errors inside say which pass they come from."""

    def __init__(self, definition: Any) -> None:
        self._name = definition.__name__

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            error.add_note(f"in the graph pass {self._name}")
        if isinstance(error, PassError):
            error.graph_pass = error.graph_pass or self._name


def _keep(node: fx.Node) -> bool:
    # Only what rewiring left behind goes: tensors that nobody reads any more. Calls stay, for their side effects.
    return node.op != "get_attr"
