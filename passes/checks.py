"""Postconditions on the result of the passes, cheap enough to stay on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn
from torch.utils._pytree import tree_leaves

from passes.binding import shares_registries
from passes.errors import PassError
from passes.kernel_math import conv_output_size
from passes.match import ConvSite
from passes.shapes import Shape


def check_graph(graph_module: fx.GraphModule) -> None:
    """The graph is well formed: topological order, every target there."""
    graph_module.graph.lint()


def check_sharing(graph_module: fx.GraphModule, model: nn.Module) -> None:
    """The graph module holds the model's own tensors and modules, and nothing else."""
    assert shares_registries(graph_module, model), "a pass replaced a registry that is the model's own"


def check_geometry(graph_module: fx.GraphModule, shapes: Mapping[fx.Node, Any]) -> None:
    """Every pooled convolution gives exactly the size that the unpooled one would give on the same input."""
    for node in graph_module.graph.nodes:
        site: ConvSite | None = node.meta.get("unpooled")
        if site is None:
            continue
        expected = unpooled_output_size(site, shapes[site.input][-len(site.kernel) :])
        found = shapes[node][-len(site.kernel) :]
        assert found == expected, f"{site.name}: the pooled conv gives {found}, the unpooled one {expected}"


def unpooled_output_size(site: ConvSite, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial output size ``(*S)`` of the convolution as it was, for spatial input sizes ``(*S)``."""
    if site.transposed:
        return tuple(
            (size - 1) * stride - 2 * padding[0] + dilation * (kernel - 1) + extra + 1
            for size, kernel, stride, padding, dilation, extra in zip(
                sizes, site.kernel, site.stride, site.padding, site.dilation, site.output_padding, strict=True
            )
        )
    return tuple(
        conv_output_size(size, kernel, stride, sum(padding), dilation)
        for size, kernel, stride, padding, dilation in zip(
            sizes, site.kernel, site.stride, site.padding, site.dilation, strict=True
        )
    )


def check_reachability(full: fx.GraphModule, low: fx.GraphModule) -> None:
    """Every parameter that the full graph's output depends on still reaches the low graph's output.

    Raises ``PassError`` where one doesn't: a model may leave a layer out on small images.
    """
    reached = _reaching(low)
    gone = _reaching(full) - reached
    if gone:
        lost = _parameters_at(full, gone) - _parameters_at(low, reached)
        if lost:
            raise PassError(
                f"no gradient would reach {', '.join(sorted(lost))} in low-mode: the model leaves it out on smaller "
                "images; try a larger input size, or pool kernels alone with downsample_input=False"
            )


def _reaching(graph_module: fx.GraphModule) -> set[str]:
    """Paths of the parameters and modules with a path to the output."""
    live: set[fx.Node] = set()
    pending = [node for node in graph_module.graph.nodes if node.op == "output"]
    while pending:
        node = pending.pop()
        if node not in live:
            live.add(node)
            pending.extend(node.all_input_nodes)
    return {str(node.target) for node in live if node.op in ("get_attr", "call_module")}


def _parameters_at(graph_module: fx.GraphModule, targets: set[str]) -> set[str]:
    """Names of the parameters at these paths: the parameter itself, or all that a module holds."""
    names: set[str] = set()
    for target in targets:
        value: Any = graph_module
        for atom in target.split("."):
            value = getattr(value, atom)
        if isinstance(value, nn.Module):
            names |= {f"{target}.{name}" for name, _ in value.named_parameters()}
        elif isinstance(value, nn.Parameter):
            names.add(target)
    return names


def check_outputs(full: Mapping[str, Any], low: Mapping[fx.Node, Any], low_graph: fx.GraphModule) -> None:
    """Low-mode returns the structure that full-mode returns: the same tensors, ranks and batch; logits exactly alike.

    Raises ``PassError``, for a head may fold the map into the batch without an error of its own.
    """
    output = next(node for node in low_graph.graph.nodes if node.op == "output")
    expected, found = _tensors(full[output.name]), _tensors(low[output])
    same = len(expected) == len(found) and all(
        len(ours) == len(theirs) and (ours == theirs if len(ours) <= 2 else ours[0] == theirs[0])
        for ours, theirs in zip(expected, found, strict=True)
    )
    if not same:
        raise PassError(
            f"low-mode returns {found} where full-mode returns {expected}; the model fixes its input size in its head: "
            "set adapt_head=True to resize the map there"
        )


def _tensors(tree: Any) -> list[tuple[int, ...]]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Shape)]
