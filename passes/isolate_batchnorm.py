"""Low-mode normalises with batch statistics and leaves the running statistics to full-mode."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call

from passes.base import Change, PassContext, PassReport, graph_pass
from passes.calls import FUNCTIONAL_NORMS, bound_arguments
from passes.checks import statistics_isolated
from passes.match import NormSite, norm_sites
from passes.shape_rules import SHAPE_RULES
from passes.torch_internals import is_jit_tracing

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@graph_pass(ensures=[statistics_isolated])
def isolate_batchnorm(graph_module: fx.GraphModule, context: PassContext) -> PassReport:
    """Detach every norm in train mode from its running statistics and counters; frozen norms stay frozen.

    Args:
        graph_module: The graph, which is rewired in place.
        context: The full-mode graph and the inputs.

    Returns:
        The norms that were changed.
    """
    changes = []
    for site in norm_sites(graph_module):
        if site.module is None:
            _isolate_function(graph_module.graph, site)
        else:
            _isolate_module(graph_module.graph, site, site.module)
        changes.append(Change(site.name, site.node.name, "updates running statistics", "batch statistics only"))
    return PassReport("isolate_batchnorm", tuple(changes))


def isolated_norm(norm: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call ``norm`` (or any module with norms inside) so that no running statistic or counter in it changes."""
    plain = type(norm) in _PLAIN and norm.training and norm.running_mean is not None and not has_ways_of_its_own(norm)
    if plain and len(args) == 1 and not kwargs:
        norm._check_input_dim(args[0])  # type: ignore[operator]
        return F.batch_norm(args[0], None, None, norm.weight, norm.bias, True, 0.0, norm.eps)  # type: ignore[arg-type]
    if not torch.compiler.is_compiling() and is_jit_tracing():
        return norm(
            *args, **kwargs
        )  # fvcore counts by jit tracing, which does not support functional_call; it counts on a copy
    return functional_call(norm, _copied_statistics(norm), args, kwargs)


def has_ways_of_its_own(module: nn.Module) -> bool:
    """Whether a call of ``module`` does more than its class's ``forward``: hooks, or an instance's own ``forward``."""
    held = module.__dict__
    return "forward" in held or any(held[hooks] for hooks in _HOOKS)


def _shape_rule(norm: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return norm(*args, **kwargs)  # with meta tensors nothing real is written, so no copy is needed


SHAPE_RULES[isolated_norm] = _shape_rule


def _copied_statistics(module: nn.Module) -> dict[str, Tensor]:
    copies: dict[str, Tensor] = {}
    for path, part in module.named_modules():
        if part.training and getattr(part, "running_mean", None) is not None:
            prefix = f"{path}." if path else ""
            copies |= {prefix + name: buffer.clone() for name, buffer in part.named_buffers(recurse=False)}
    return copies


def _isolate_module(graph: fx.Graph, site: NormSite, path: str) -> None:
    with graph.inserting_before(site.node):
        norm = graph.create_node("get_attr", path)
    site.node.op, site.node.target = "call_function", isolated_norm
    site.node.args = (norm, *site.node.args)


def _isolate_function(graph: fx.Graph, site: NormSite) -> None:
    # Without running statistics as arguments, the norm updates none.
    names = FUNCTIONAL_NORMS[site.node.target]
    arguments = bound_arguments(site.node, names) | {"running_mean": None, "running_var": None}
    site.node.args = tuple(arguments[name] for name in names[: len(site.node.args)])
    site.node.kwargs = {name: arguments[name] for name in site.node.kwargs}
    for node in list(graph.nodes):
        # torch.export writes the counter's update as an in-place addition without readers.
        counted = node.op == "call_function" and not node.users and node.args and isinstance(node.args[0], fx.Node)
        if counted and str(node.args[0].target) == f"{site.name}.num_batches_tracked":
            graph.erase_node(node)
