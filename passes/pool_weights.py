"""Put a pooling node between a kernel and its convolution (§2.2.2); gradients reach the full kernel (Eq. 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, fx

from passes.base import Change, PassContext, PassReport, Skip, graph_pass
from passes.checks import pooled_geometry
from passes.kernel_math import (
    Gain,
    KernelTransform,
    Rounding,
    average_kernel,
    center_kernel,
    custom_kernel,
    linear_kernel,
    pooled_padding,
    pooled_size,
)
from passes.match import ConvSite, Padding, conv_sites, match_conv, opaque_convs
from passes.patterns import select_names
from passes.shapes import Shape, record_shape
from passes.transposed import pool_conv_transpose

NamedTransform = Literal["avg", "adaptive", "center", "linear"]
NamedConvs = Literal["dense", "all"]
NOT_TRACED = "inside a module that is not traced"


@graph_pass(ensures=[pooled_geometry])
def pool_weights(
    graph_module: fx.GraphModule,
    context: PassContext,
    *,
    ratio: int,
    rounding: Rounding = "ceil",
    transform: NamedTransform | KernelTransform = "avg",
    gain: Gain = "mean",
    pool_convs: NamedConvs | Sequence[str] = "dense",
    keep_convs: Sequence[str] = (),
) -> PassReport:
    """Pool the kernels of the chosen convolutions by ``ratio``; every output keeps the size it had.

    ``pool_convs``: ``"dense"`` (windows overlap, K > stride; not the stem; no depthwise conv to a single tap),
    ``"all"`` (the stem and patchifying convs too; still no depthwise conv to a single tap), or globs over module names,
    which are taken at their word. ``keep_convs`` are globs that are left alone whatever ``pool_convs`` says.
    ``"linear"`` rewrites a kernel that keeps its size too: its taps move closer.

    Raises ``PassError`` where a glob matches nothing, ``ValueError`` where a custom transform returns a wrong shape.
    """
    sites = conv_sites(graph_module)
    names = [site.name for site in sites]
    named = pool_convs if isinstance(pool_convs, str) else None
    chosen = set(names) if named else select_names(names, pool_convs, "pool_convs", "convolution")
    kept = select_names(names, keep_convs, "keep_convs", "convolution")
    stems = stem_nodes(graph_module, sites)
    changes, skips = [], []
    for site in sites:
        pooled = tuple(pooled_size(size, ratio, rounding) for size in site.kernel)
        resampled = transform == "linear" and ratio > 1 and max(site.kernel) > 1
        same = pooled == site.kernel and not resampled
        reason = _why_not(site, pooled, same, named, site.node in stems, site.name in chosen, site.name in kept)
        if reason is None and named and resampled and site.transposed and max(site.stride) > 1:
            reason = "transposed with a stride: its taps answer to output phases, which resampling would mix"
        if reason:
            skips.append(Skip(site.name, site.node.name, reason))
            continue
        current = match_conv(graph_module, site.node)  # its input may have been rewired since
        assert current is not None
        _rewire(graph_module, current, pooled, ratio, transform, gain)
        changes.append(Change(site.name, site.node.name, _sides(site.kernel), _sides(pooled)))
    for path, kernel in opaque_convs(graph_module).items():
        reason = NOT_TRACED if max(kernel) > 1 else f"{_sides(kernel)} has nothing to pool"
        skips.append(Skip(path, path, reason))
    return PassReport("pool_weights", tuple(changes), tuple(skips))


def stem_nodes(graph_module: fx.GraphModule, sites: Sequence[ConvSite]) -> set[fx.Node]:
    """The convolutions that read the image: none of their inputs has passed another convolution."""
    convs = {site.node: site for site in sites}
    after_conv: set[fx.Node] = set()
    stems = set()
    for node in graph_module.graph.nodes:
        site = convs.get(node)
        # A kernel may be computed from activations (dynamic convs); only the data path makes a stem.
        sources = [site.input] if site else node.all_input_nodes
        if any(source in after_conv for source in sources):
            after_conv.add(node)
        elif site:
            stems.add(node)
            after_conv.add(node)
    return stems


def _why_not(
    site: ConvSite, pooled: tuple[int, ...], same: bool, named: str | None, stem: bool, chosen: bool, kept: bool
) -> str | None:
    taps = math.prod(pooled)
    if same:
        return f"{_sides(site.kernel)} has nothing to pool"
    if kept:
        return "kept by keep_convs"
    if not chosen:
        return "not in pool_convs"
    if named and site.depthwise and taps == 1:
        return "depthwise: one tap would be left, a scale with no spatial reach"
    if named and site.transposed and any(k < s for k, s in zip(pooled, site.stride, strict=True)):
        return f"transposed: {_sides(pooled)} taps at stride {_sides(site.stride)} leave holes in the output"
    if named == "dense" and stem:
        return "stem: it reads the image"
    if named == "dense" and all(k <= s for k, s in zip(site.kernel, site.stride, strict=True)):
        return f"windows do not overlap ({_sides(site.kernel)} at stride {_sides(site.stride)})"
    return None


def _rewire(
    graph_module: fx.GraphModule,
    site: ConvSite,
    pooled: tuple[int, ...],
    ratio: int,
    transform: NamedTransform | KernelTransform,
    gain: Gain,
) -> None:
    graph = graph_module.graph
    with graph.inserting_before(site.node):
        weight = _pooling_node(graph, site.weight, pooled, ratio, transform, gain)
        record_shape(weight, Shape((*site.weight_shape[:2], *pooled)))
        if site.transposed:
            pool_conv_transpose(graph, site, weight, pooled)
        else:
            _pool_conv(graph, site, weight, pooled)


def _pool_conv(graph: fx.Graph, site: ConvSite, weight: fx.Node, pooled: tuple[int, ...]) -> None:
    padding = tuple(
        pooled_padding(before, after, size, target, dilation)
        for (before, after), size, target, dilation in zip(
            site.padding, site.kernel, pooled, site.dilation, strict=True
        )
    )
    source, native = _pad_node(graph, site.input, padding)
    # The node is edited in place: it keeps its name, so that both graphs can be compared node by node.
    site.node.target = site.function
    site.node.args = (source, weight, site.bias, site.stride, native, site.dilation, site.groups)
    site.node.kwargs = {}
    site.node.meta["unpooled"] = site


def _pooling_node(
    graph: fx.Graph,
    weight: fx.Node,
    pooled: tuple[int, ...],
    ratio: int,
    transform: NamedTransform | KernelTransform,
    gain: Gain,
) -> fx.Node:
    if transform == "center":
        return graph.call_function(center_kernel, (weight, pooled, gain))
    if transform == "linear":
        return graph.call_function(linear_kernel, (weight, pooled, ratio))
    if callable(transform):
        return graph.call_function(_bind_transform(transform, gain), (weight, pooled))
    return graph.call_function(average_kernel, (weight, pooled, ratio, gain, transform == "adaptive"))


def _bind_transform(transform: KernelTransform, gain: Gain) -> KernelTransform:
    # A graph's arguments are data; the user's function has to travel in the target.
    def custom_transform(weight: Tensor, pooled: tuple[int, ...]) -> Tensor:
        return custom_kernel(weight, pooled, transform, gain)

    custom_transform.users_name = getattr(transform, "__name__", repr(transform))  # type: ignore[attr-defined]
    return custom_transform


def is_custom_transform(node: fx.Node) -> bool:
    """Does the node run a user's own kernel transform?"""
    return hasattr(node.target, "users_name")


def _pad_node(graph: fx.Graph, source: fx.Node, padding: Padding) -> tuple[fx.Node, tuple[int, ...]]:
    """What the convolution can pad itself (as much before as after) stays with it; ``F.pad`` does the rest."""
    if all(before == after >= 0 for before, after in padding):
        return source, tuple(before for before, _ in padding)
    flat = [amount for sides in reversed(padding) for amount in sides]
    return graph.call_function(F.pad, (source, flat)), (0,) * len(padding)


def _sides(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))
