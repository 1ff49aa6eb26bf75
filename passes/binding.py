"""Graph modules over a model's own parameters, buffers and submodules, which are shared and never copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from passes.torch_internals import REGISTRIES


class _Draft(fx.GraphModule):
    """A graph that is still being rewired: it never runs, and generating its code would take as long as all passes."""

    def recompile(self) -> Any:
        return None


def bind_graph(model: nn.Module, graph: fx.Graph, class_name: str, *, draft: bool = False) -> fx.GraphModule:
    """Make a ``GraphModule`` for a graph over everything that a model holds.

    The registries of parameters, buffers and submodules *are* the model's dictionaries, so names and ``state_dict``
    keys are the model's own, and both see whatever replaces a parameter, buffer or submodule later (``.to()``,
    sharding, ``load_state_dict(assign=True)``). A pass must therefore never add a submodule or parameter: it would be
    added to the model.

    Args:
        model: The model.
        graph: A graph with the model's names.
        class_name: Name of the module's class.
        draft: Generate no code, for a graph that is still being rewired.

    Returns:
        The graph module, in the model's train or eval mode.
    """
    kind = _Draft if draft else fx.GraphModule
    graph_module = kind(nn.Module(), fx.Graph(), class_name=class_name)
    share_registries(graph_module, model)
    graph_module.training = model.training
    _read_hidden_names(graph, model)
    graph_module.graph = graph
    return graph_module


def _read_hidden_names(graph: fx.Graph, model: nn.Module) -> None:
    """A model's ``code`` or ``graph`` is another attribute of a graph module: a call reads it from the model."""
    hidden = _HIDDEN & (model.__dict__["_parameters"].keys() | model.__dict__["_buffers"].keys())
    for node in list(graph.nodes) if hidden else ():
        # A copied graph holds the readers of its original's model.
        name = getattr(node.target, "hidden_name", "") if node.op == "call_function" else str(node.target)
        if node.op in ("call_function", "get_attr") and name in hidden:
            node.op, node.target = "call_function", _reader(model, name)


def _reader(model: nn.Module, name: str) -> Callable[[], Any]:
    def read() -> Any:
        return getattr(model, name)

    read.hidden_name = name  # type: ignore[attr-defined]
    return read


_HIDDEN = frozenset(name for name in vars(fx.GraphModule) if not name.startswith("_"))


def share_registries(module: nn.Module, model: nn.Module) -> None:
    """Make ``module`` hold what ``model`` holds, under the same names."""
    for registry in REGISTRIES:
        module.__dict__[registry] = model.__dict__[registry]


def shares_registries(module: nn.Module, model: nn.Module) -> bool:
    """Whether ``module`` still holds the model's own registries."""
    return all(
        module.__dict__[registry] is model.__dict__[registry] for registry in ("_parameters", "_buffers", "_modules")
    )
