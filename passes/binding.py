"""Graph modules that hold a model's own parameters, buffers and submodules: shared by structure, never copied."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import Any

from torch import fx, nn

_REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class _Draft(fx.GraphModule):
    """A graph that is still being rewired: nobody runs its code, which takes as long to generate as all passes do."""

    def recompile(self) -> Any:
        return None


def bind_graph(model: nn.Module, graph: fx.Graph, class_name: str, *, draft: bool = False) -> fx.GraphModule:
    """A ``GraphModule`` for ``graph`` over everything that ``model`` holds; a ``draft`` has no code to run yet.

    The three registries *are* the model's dictionaries, so names and ``state_dict`` keys are the model's own, and
    whatever replaces a parameter, buffer or submodule later (``.to()``, sharding, ``load_state_dict(assign=True)``)
    is seen by both. A pass may therefore never add a submodule or parameter: it would end up in the model.
    """
    kind = _Draft if draft else fx.GraphModule
    graph_module = kind(nn.Module(), fx.Graph(), class_name=class_name)
    share_registries(graph_module, model)
    graph_module.training = model.training
    graph_module.graph = graph
    return graph_module


def share_registries(module: nn.Module, model: nn.Module) -> None:
    """Make ``module`` hold exactly what ``model`` holds, under the same names."""
    for registry in _REGISTRIES:
        module.__dict__[registry] = model.__dict__[registry]


def shares_registries(module: nn.Module, model: nn.Module) -> bool:
    """True where ``module`` still holds the model's own registries."""
    return all(
        module.__dict__[registry] is model.__dict__[registry] for registry in ("_parameters", "_buffers", "_modules")
    )


@contextlib.contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Whatever a forward on symbolic or fake values leaves on the model's modules goes: caches, weight-norm kernels,
    buffers that it assigned or registered. The registries stay the same dictionaries, with what they held.
    """
    before = [
        (module, module.__dict__.copy(), [(each, each.copy()) for each in _registries(module)], transient.copy())
        for module in model.modules()
        for transient in (module._non_persistent_buffers_set,)
    ]
    try:
        yield
    finally:
        for module, attributes, registries, transient in before:
            module._non_persistent_buffers_set &= transient
            now = module.__dict__
            if _differs(now, attributes):
                for name in now.keys() - attributes.keys():
                    del now[name]
                now.update(attributes)
            for registry, held in registries:
                if _differs(registry, held):
                    registry.clear()
                    registry.update(held)


def _registries(module: nn.Module) -> list[dict[str, Any]]:
    return [module._parameters, module._buffers, module._modules]


def _differs(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return now.keys() != before.keys() or any(map(operator.is_not, now.values(), before.values()))
