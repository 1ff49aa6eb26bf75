"""Insert a pooling node between a kernel and its convolution (§2.2.2); gradients reach the full kernel (Eq. 4)."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch.nn.functional as F
from torch import fx

from passes.base import Change, PassContext, PassReport, Skip, graph_pass
from passes.checks import pooled_geometry
from passes.match import ConvSite, conv_sites, deformable_convs, first_on_paths, match_conv, opaque_convs, trained
from passes.patterns import select_names
from passes.pooled_calls import pooled_conv
from passes.pooling_rule import CUSTOM_FUNCTION, DEFORMABLE, NOT_TRACED, PoolingRule
from passes.rewire import insert_after
from passes.shapes import Shape, record_shape
from passes.wording import sides


@graph_pass(ensures=[pooled_geometry])
def pool_weights(graph_module: fx.GraphModule, context: PassContext, *, rule: PoolingRule) -> PassReport:
    """Pool the kernels that a rule chooses; every output keeps its size (§2.2.2, Eq. 4).

    Args:
        graph_module: The graph, which is rewired in place.
        context: The full-mode graph and the inputs.
        rule: Which kernels to pool, and how.

    Returns:
        The convolutions that are pooled, and those that are kept, with the reasons.

    Raises:
        PassError: A glob matches nothing.
        ValueError: A custom transform returns a wrong shape.
    """
    sites = conv_sites(graph_module)
    names = [site.name for site in sites]
    if not isinstance(rule.pool_convs, str):
        select_names(names, rule.pool_convs, "pool_convs", "convolution")
    select_names(names, rule.keep_convs, "keep_convs", "convolution")
    changes, skips = [], []
    for site, reason in zip(sites, reasons_to_keep(graph_module, sites, rule), strict=True):
        if reason:
            skips.append(Skip(site.name, site.node.name, reason))
            continue
        current = match_conv(graph_module, site.node)  # its input may have been rewired
        assert current is not None
        _rewire(graph_module, current, rule)
        changes.append(Change(site.name, site.node.name, sides(site.kernel), sides(rule.pooled(site.kernel))))
    for path, kernel in opaque_convs(graph_module).items():
        reason = NOT_TRACED if max(kernel) > 1 else f"{sides(kernel)} has nothing to pool"
        skips.append(Skip(path, path, reason))
    skips += [Skip(name, node, DEFORMABLE) for node, name in deformable_convs(graph_module).items()]
    return PassReport("pool_weights", tuple(changes), tuple(skips))


def reasons_to_keep(graph_module: fx.GraphModule, sites: Sequence[ConvSite], rule: PoolingRule) -> list[str | None]:
    """For each convolution the reason why ``rule`` keeps its kernel; ``None`` if it is pooled."""
    stems = stem_nodes(graph_module, sites)
    return [
        CUSTOM_FUNCTION
        if CUSTOM_FUNCTION in site.node.meta
        else rule.reason_to_keep(site, site.name, stem=site.node in stems, trained=trained(graph_module, site.weight))
        for site in sites
    ]


def stem_nodes(graph_module: fx.GraphModule, sites: Sequence[ConvSite]) -> set[fx.Node]:
    """The convolutions that read the image: their input has not passed another convolution."""
    return first_on_paths(graph_module.graph, sites)


def _rewire(graph_module: fx.GraphModule, site: ConvSite, rule: PoolingRule) -> None:
    graph, node = graph_module.graph, site.node
    pooled = pooled_conv(site, rule)
    with graph.inserting_before(node):
        weight = graph.call_function(pooled.kernel_function, (site.weight, *pooled.kernel_arguments))
        record_shape(weight, Shape((*site.weight_shape[:2], *rule.pooled(site.kernel))))
        source = site.input if pooled.pad is None else graph.call_function(F.pad, (site.input, list(pooled.pad)))
    # The node is edited in place and keeps its name, so that both graphs can be compared node by node.
    node.target, node.kwargs = pooled.function, {}
    node.args = (source, weight, site.bias if pooled.margins is None else None, *pooled.arguments)
    last = node
    if pooled.margins is not None:
        last = insert_after(graph, node, F.pad, list(pooled.margins))
        if site.bias is not None:
            with graph.inserting_before(node):
                column = graph.call_method("view", (site.bias, -1, *(1,) * len(site.kernel)))
            last = insert_after(graph, last, operator.add, column)
    last.meta["unpooled"] = site


def is_custom_transform(node: fx.Node) -> bool:
    """Whether the node runs a custom kernel transform."""
    return hasattr(node.target, "users_name")
