"""The one normaliser: however a graph spells a convolution, a max pool or a norm, it becomes a site.

A site is a frozen record of one place that a pass may rewrite; passes never look at targets or signatures themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from passes.calls import (
    CONV_ARGUMENTS,
    CONV_TRANSPOSE_ARGUMENTS,
    CONVS,
    FUNCTIONAL_NORMS,
    MAX_POOL_ARGUMENTS,
    MAX_POOL_MODULES,
    MAX_POOLS,
    WITH_INDICES,
    bound_arguments,
    spatial,
)
from passes.kernel_math import same_padding
from passes.shapes import node_shape

Padding = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ConvSite:
    """One convolution call: input ``(N, C, *S)``, kernel ``(F, C / groups, *K)`` (transposed: ``(C, F / groups, *K)``).

    ``padding`` is (before, after) for each spatial side. ``function`` is the functional form with the same dimensions.
    ``groups`` is what a call passes on: a node where it is computed (one kernel an image), whose value on the example
    is ``group_count``.
    """

    node: fx.Node
    name: str
    function: Callable[..., torch.Tensor]
    transposed: bool
    input: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    weight_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    groups: int | fx.Node
    group_count: int
    output_padding: tuple[int, ...]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight_shape[2:]

    @property
    def in_channels(self) -> int:
        return self.weight_shape[0] if self.transposed else self.weight_shape[1] * self.group_count

    @property
    def depthwise(self) -> bool:
        return self.group_count > 1 and self.group_count == self.in_channels


@dataclass(frozen=True)
class MaxPoolSite:
    """One max pool call on ``(N, C, *S)``; ``with_indices`` where it returns the indices too."""

    node: fx.Node
    name: str
    input: fx.Node
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    with_indices: bool


@dataclass(frozen=True)
class NormSite:
    """One call that normalises with, and in train mode updates, running statistics.

    ``module`` is the path of the called module; ``None`` where the call is functional.
    """

    node: fx.Node
    name: str
    module: str | None


def conv_sites(graph_module: fx.GraphModule) -> list[ConvSite]:
    """Every convolution that the graph spells out, in execution order."""
    matched = (match_conv(graph_module, node) for node in graph_module.graph.nodes)
    return [site for site in matched if site is not None]


def max_pool_sites(graph_module: fx.GraphModule) -> list[MaxPoolSite]:
    """Every max pool, as module or function, in execution order."""
    matched = (_match_max_pool(graph_module, node) for node in graph_module.graph.nodes)
    return [site for site in matched if site is not None]


def norm_sites(graph_module: fx.GraphModule) -> list[NormSite]:
    """Every call that keeps running statistics, in execution order."""
    matched = (_match_norm(graph_module, node) for node in graph_module.graph.nodes)
    return [site for site in matched if site is not None]


def opaque_convs(graph_module: fx.GraphModule) -> dict[str, tuple[int, ...]]:
    """Kernel sizes of the convolutions inside leaf modules, where no pass can reach them, by their paths."""
    found = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            for path, module in graph_module.get_submodule(node.target).named_modules():
                if is_convolution(module):
                    found[f"{node.target}.{path}" if path else str(node.target)] = module_kernel(module)
    return found


def is_convolution(module: nn.Module) -> bool:
    """Whether the module convolves: one of torch's, or one that holds a kernel and says its size (``CondConv2d``)."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return True
    return hasattr(module, "kernel_size") and isinstance(module._parameters.get("weight"), nn.Parameter)


def module_kernel(convolution: nn.Module) -> tuple[int, ...]:
    """K of each spatial side, as the module tells it."""
    size: Any = convolution.kernel_size
    return (size,) if isinstance(size, int) else tuple(size)


def module_path(node: fx.Node) -> str | None:
    """Path of the innermost module whose code made this node, where the tracer kept it."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return None
    path = list(stack.values())[-1][0]
    return path.removeprefix("L['self'].") or None


def weight_shape(graph_module: fx.GraphModule, weight: fx.Node) -> tuple[int, ...] | None:
    """Shape of a kernel: read off the parameter, or off what shape propagation has left on a computed one."""
    if weight.op == "get_attr":
        value: Any = graph_module
        for atom in str(weight.target).split("."):
            value = getattr(value, atom)
        return tuple(value.shape)
    return node_shape(weight)  # type: ignore[no-any-return]


def match_conv(graph_module: fx.GraphModule, node: fx.Node) -> ConvSite | None:
    """The convolution that ``node`` calls, as it stands now; ``None`` for other nodes."""
    if node.op != "call_function" or node.target not in CONVS:
        return None
    dims, transposed, function = CONVS[node.target]
    arguments = bound_arguments(node, CONV_TRANSPOSE_ARGUMENTS if transposed else CONV_ARGUMENTS)
    weight = arguments["weight"]
    shape = weight_shape(graph_module, weight)
    if shape is None:
        return None
    dilation = spatial(arguments.get("dilation", 1), dims)
    groups = arguments.get("groups", 1)
    padding = arguments.get("padding", 0)
    if padding == "same":
        sides = tuple(same_padding(size, step) for size, step in zip(shape[2:], dilation, strict=True))
    else:
        sides = tuple((side, side) for side in spatial(0 if padding == "valid" else padding, dims))
    return ConvSite(
        node=node,
        name=_conv_name(graph_module, node, weight),
        function=function,
        transposed=transposed,
        input=arguments["input"],
        weight=weight,
        bias=arguments.get("bias"),
        weight_shape=shape,
        stride=spatial(arguments.get("stride", 1), dims),
        padding=sides,
        dilation=dilation,
        groups=groups,
        group_count=node_shape(groups) if isinstance(groups, fx.Node) else groups,
        output_padding=spatial(arguments.get("output_padding", 0), dims),
    )


def _match_max_pool(graph_module: fx.GraphModule, node: fx.Node) -> MaxPoolSite | None:
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        dims = next((dims for cls, dims in MAX_POOL_MODULES.items() if isinstance(module, cls)), None)
        if dims is None:
            return None
        arguments: dict[str, Any] = {"input": (*node.args, *node.kwargs.values())[0]}
        arguments |= {name: getattr(module, name) for name in MAX_POOL_ARGUMENTS[1:]}
    elif node.op == "call_function" and node.target in MAX_POOLS:
        dims = MAX_POOLS[node.target]
        arguments = bound_arguments(node, MAX_POOL_ARGUMENTS)
    else:
        return None
    kernel = spatial(arguments["kernel_size"], dims)
    stride = arguments.get("stride")
    with_indices = node.op == "call_function" and node.target in WITH_INDICES
    return MaxPoolSite(
        node=node,
        name=str(node.target) if node.op == "call_module" else module_path(node) or node.name,
        input=arguments["input"],
        kernel=kernel,
        stride=spatial(stride, dims) if stride else kernel,
        with_indices=with_indices or bool(arguments.get("return_indices", False)),
    )


def _match_norm(graph_module: fx.GraphModule, node: fx.Node) -> NormSite | None:
    if node.op == "call_module":
        target = str(node.target)
        modules = graph_module.get_submodule(target).modules()
        return NormSite(node, target, target) if any(map(_keeps_statistics, modules)) else None
    if node.op == "call_function" and node.target in FUNCTIONAL_NORMS:
        arguments = bound_arguments(node, FUNCTIONAL_NORMS[node.target])
        if arguments.get("training") and arguments.get("running_mean") is not None:
            return NormSite(node, _owner(arguments["running_mean"]) or module_path(node) or node.name, None)
    return None


def _keeps_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None and getattr(module, "running_var", None) is not None


def _conv_name(graph_module: fx.GraphModule, node: fx.Node, weight: fx.Node) -> str:
    """Path of the module that convolves; of the weight's owner where a function was called with it."""
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
