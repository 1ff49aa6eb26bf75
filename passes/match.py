"""The normaliser: every form of a convolution, a max pool or a norm in a graph becomes a site.

A site is a frozen record of one place that a pass may rewrite; passes never inspect targets or signatures themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from passes.calls import (
    FUNCTIONAL_NORMS,
    MAX_POOL_ARGUMENTS,
    MAX_POOL_MODULES,
    ConvCall,
    MaxPoolCall,
    as_max_pool,
    bound_arguments,
    conv_call,
    max_pool_call,
)
from passes.shapes import node_shape


@dataclass(frozen=True)
class ConvSite(ConvCall[fx.Node]):
    """A convolution that a node calls, named by the path of the module that convolves."""

    node: fx.Node
    name: str


@dataclass(frozen=True)
class MaxPoolSite(MaxPoolCall[fx.Node]):
    """A max pool that a node calls, as module or function."""

    node: fx.Node
    name: str


@dataclass(frozen=True)
class NormSite:
    """One call that normalises with running statistics and, in train mode, updates them.

    ``module`` is the path of the called module; ``None`` if the call is functional.
    """

    node: fx.Node
    name: str
    module: str | None


def conv_sites(graph_module: fx.GraphModule) -> list[ConvSite]:
    """Every convolution that is a node of the graph, in execution order."""
    matched = (match_conv(graph_module, node) for node in graph_module.graph.nodes)
    return [site for site in matched if site is not None]


def sliding_convs(graph_module: fx.GraphModule, least: int | None = None) -> list[ConvSite]:
    """Convolutions with a kernel side above their stride, or above ``least``: those that have something to pool."""
    sites = conv_sites(graph_module)
    return [site for site in sites if any(k > (least or s) for k, s in zip(site.kernel, site.stride, strict=True))]


def max_pool_sites(graph_module: fx.GraphModule) -> list[MaxPoolSite]:
    """Every max pool, as module or function, in execution order."""
    matched = (_match_max_pool(graph_module, node) for node in graph_module.graph.nodes)
    return [site for site in matched if site is not None]


def norm_sites(graph_module: fx.GraphModule) -> list[NormSite]:
    """Every call that keeps running statistics, in execution order."""
    matched = (_match_norm(graph_module, node) for node in graph_module.graph.nodes)
    return [site for site in matched if site is not None]


def first_on_paths(graph: fx.Graph, sites: Sequence[ConvSite] | Sequence[MaxPoolSite]) -> set[fx.Node]:
    """Those nodes of the sites that no other site leads to, along the data flow."""
    inputs = {site.node: site.input for site in sites}
    first: set[fx.Node] = set()
    after: set[fx.Node] = set()
    for node in graph.nodes:
        # A kernel may be computed from activations (dynamic convolutions): this path does not count.
        sources = [inputs[node]] if node in inputs else node.all_input_nodes
        if any(source in after for source in sources):
            after.add(node)
        elif node in inputs:
            first.add(node)
            after.add(node)
    return first


def opaque_convs(graph_module: fx.GraphModule) -> dict[str, tuple[int, ...]]:
    """Kernel sizes of the convolutions inside leaf modules, which passes can't reach, by path."""
    found = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            for path, module in graph_module.get_submodule(node.target).named_modules():
                if is_convolution(module):
                    found[f"{node.target}.{path}" if path else str(node.target)] = module_kernel(module)
    return found


def deformable_convs(graph_module: fx.GraphModule) -> dict[str, str]:
    """Nodes that call torchvision's deformable convolution, and the paths of their modules."""
    calls = (node for node in graph_module.graph.nodes if node.op == "call_function")
    return {node.name: site_name(node) for node in calls if "deform_conv2d" in str(node.target)}


def is_convolution(module: nn.Module) -> bool:
    """Whether the module convolves: one of torch's, or one that holds a kernel and its size (``CondConv2d``)."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return True
    own = (name for name, _ in module.named_parameters(recurse=False))
    return hasattr(module, "kernel_size") and "weight" in own


def module_kernel(convolution: nn.Module) -> tuple[int, ...]:
    """K of each spatial side of a module."""
    size: Any = convolution.kernel_size
    return (size,) if isinstance(size, int) else tuple(size)


def module_path(node: fx.Node) -> str | None:
    """Path of the innermost module whose code made this node, if the tracer recorded it."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return None
    path = list(stack.values())[-1][0]
    return path.removeprefix("L['self'].") or None


def site_name(node: fx.Node) -> str:
    """Path of the module that the node calls or belongs to; otherwise the node's own name."""
    return str(node.target) if node.op == "call_module" else module_path(node) or node.name


def weight_shape(graph_module: fx.GraphModule, weight: fx.Node) -> tuple[int, ...] | None:
    """Shape of a kernel: of the parameter, or from shape propagation for a computed one."""
    if weight.op == "get_attr":
        return tuple(_attribute(graph_module, weight).shape)
    return node_shape(weight)  # type: ignore[no-any-return]


def _attribute(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    return operator.attrgetter(str(node.target))(graph_module)


def trained(graph_module: fx.GraphModule, kernel: fx.Node) -> bool:
    """Whether a trainable parameter reaches the kernel: not a fixed one (Sobel, a blur) or a frozen one."""
    pending, seen = [kernel], {kernel}
    while pending:
        node = pending.pop()
        if node.op == "get_attr" and _trains(_attribute(graph_module, node)):
            return True
        if node.op == "call_module" and any(map(_trains, graph_module.get_submodule(str(node.target)).parameters())):
            return True
        pending += [source for source in node.all_input_nodes if source not in seen]
        seen.update(node.all_input_nodes)
    return False


def _trains(value: Any) -> bool:
    return isinstance(value, nn.Parameter) and value.requires_grad


def match_conv(graph_module: fx.GraphModule, node: fx.Node) -> ConvSite | None:
    """The convolution that ``node`` calls, as it is now; ``None`` for other nodes."""
    if node.op != "call_function":
        return None
    call = conv_call(node.target, node.args, node.kwargs, partial(weight_shape, graph_module), _count)
    if call is None:
        return None
    return ConvSite(**vars(call), node=node, name=_conv_name(graph_module, node, call.weight))


def _count(groups: fx.Node) -> int:
    count: int = node_shape(groups)
    return count


def _match_max_pool(graph_module: fx.GraphModule, node: fx.Node) -> MaxPoolSite | None:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        dims = next((dims for cls, dims in MAX_POOL_MODULES.items() if isinstance(module, cls)), None)
        if dims is None:
            return None
        given: dict[str, Any] = {"input": (*node.args, *node.kwargs.values())[0]}
        given |= {name: getattr(module, name) for name in MAX_POOL_ARGUMENTS[1:]}
        return MaxPoolSite(**vars(as_max_pool(given, dims)), node=node, name=str(node.target))
    if node.op != "call_function":
        return None
    call = max_pool_call(node.target, node.args, node.kwargs)
    return None if call is None else MaxPoolSite(**vars(call), node=node, name=site_name(node))


def _match_norm(graph_module: fx.GraphModule, node: fx.Node) -> NormSite | None:
    if node.op == "call_module":
        target = str(node.target)
        modules = graph_module.get_submodule(target).modules()
        return NormSite(node, target, target) if any(map(_keeps_statistics, modules)) else None
    if node.op == "call_function" and node.target in FUNCTIONAL_NORMS:
        arguments = bound_arguments(node, FUNCTIONAL_NORMS[node.target])
        updates = arguments.get("training", arguments.get("use_input_stats", node.target is F.instance_norm))
        if updates and arguments.get("running_mean") is not None:
            return NormSite(node, _owner(arguments["running_mean"]) or module_path(node) or node.name, None)
    return None


def _keeps_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None and getattr(module, "running_var", None) is not None


def _conv_name(graph_module: fx.GraphModule, node: fx.Node, weight: fx.Node) -> str:
    """Path of the module that convolves; of the weight's owner for a functional call."""
    path = module_path(node)
    module = _submodule(graph_module, path) if path else None
    if path and module is not None and is_convolution(module):
        return path
    return _owner(weight) or path or node.name


def _submodule(graph_module: fx.GraphModule, path: str) -> nn.Module | None:
    try:
        return graph_module.get_submodule(path)
    except AttributeError:
        return None


def _owner(node: fx.Node) -> str | None:
    """Path of the module that holds the tensor of a ``get_attr`` node."""
    path, _, _ = str(node.target).rpartition(".") if node.op == "get_attr" else ("", "", "")
    return path or None
