"""Conditions that passes require and ensure, cheap enough to stay enabled."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from passes.base import PassContext
from passes.calls import aten
from passes.errors import PassError, Way, set_option, whole_images
from passes.find_maps import image_shape
from passes.kernel_math import conv_output_size
from passes.match import ConvSite, conv_sites, norm_sites, sliding_convs
from passes.shapes import Shape, ShapeError, ShapeTree, full_shape, node_shape
from passes.spelling import setting
from passes.trees import tree_leaves

_RESHAPES = ("view", "reshape", torch.reshape, aten.view.default, aten.reshape.default)


def full_shapes_known(graph_module: fx.GraphModule, context: PassContext) -> None:
    """The nodes of full-mode have their full-mode shapes."""
    assert all(full_shape(node) is not None for node in graph_module.graph.nodes if node.op == "placeholder"), (
        "shapes of full-mode are not recorded; call record_full_shapes first"
    )


def pooled_geometry(graph_module: fx.GraphModule, context: PassContext) -> None:
    """Every pooled convolution gives exactly the output size that the unpooled one gives on the same input."""
    for node in graph_module.graph.nodes:
        site: ConvSite | None = node.meta.get("unpooled")
        if site is None:
            continue
        dims = len(site.kernel)
        expected = unpooled_output_size(site, node_shape(site.input)[-dims:])
        found = node_shape(node)[-dims:]
        assert found == expected, f"{site.name}: the pooled convolution gives {found}, but the unpooled one {expected}"


def unpooled_output_size(site: ConvSite, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial output size ``(*S)`` of the unpooled convolution, for spatial input sizes ``(*S)``."""
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


def statistics_isolated(graph_module: fx.GraphModule, context: PassContext) -> None:
    """No norm of the graph updates running statistics."""
    left = [site.name for site in norm_sites(graph_module)]
    assert not left, f"{', '.join(left)} would update running statistics"


def parameters_reached(graph_module: fx.GraphModule, context: PassContext) -> None:
    """Every parameter that the full graph's output depends on still affects the low graph's output.

    Raises ``PassError`` if one doesn't: a model may leave out a layer on small images.
    """
    reached = _reaching(graph_module)
    gone = _reaching(context.full) - reached
    if gone:
        lost = _parameters_at(context.full, gone) - _parameters_at(graph_module, reached)
        if lost:
            raise PassError(
                f"low-mode has no gradient for {', '.join(sorted(lost))}: the model leaves it out on smaller images",
                *(Way("use a larger input size"), whole_images()),
            )


def _reaching(graph_module: fx.GraphModule) -> set[str]:
    """Paths of the parameters and modules with a path to the output."""
    live: set[fx.Node] = set()
    pending = [output_node(graph_module.graph)]
    while pending:
        node = pending.pop()
        if node not in live:
            live.add(node)
            pending.extend(node.all_input_nodes)
    return {str(node.target) for node in live if node.op in ("get_attr", "call_module")}


def _parameters_at(graph_module: fx.GraphModule, targets: set[str]) -> set[str]:
    """Names of the parameters at these paths: the parameter itself, or all parameters of a module."""
    names: set[str] = set()
    for target in targets:
        value = operator.attrgetter(target)(graph_module)
        if isinstance(value, nn.Module):
            names |= {f"{target}.{name}" for name, _ in value.named_parameters()}
        elif isinstance(value, nn.Parameter):
            names.add(target)
    return names


def outputs_alike(graph_module: fx.GraphModule, context: PassContext) -> None:
    """Low-mode returns the structure of full-mode: the same tensors, ranks and batch; logits with equal shapes.

    Raises ``PassError``, since a head may fold the map into the batch without an error.
    """
    expected, found = (_tensors(node_shape(output_node(each.graph))) for each in (context.full, graph_module))
    same = len(expected) == len(found) and all(
        len(ours) == len(theirs) and (ours == theirs if len(ours) <= 2 else ours[0] == theirs[0])
        for ours, theirs in zip(expected, found, strict=True)
    )
    if not same:
        raise PassError(
            f"low-mode returns {found} where full-mode returns {expected}: the model's head fixes its input size",
            set_option("adapt_head", True, "to resize the map there"),
            *(whole_images(), Way("let the model return maps, or pool them to one size")),
        )


def single_pixel_norms(full: fx.GraphModule, low: fx.GraphModule) -> list[str]:
    """Norms in train mode whose map is one pixel only in low-mode: a batch of one image has no statistics there."""
    names = single_pixels(full, low)
    return [
        site.name
        for site in norm_sites(full)
        if site.node.name in names and (site.module is None or full.get_submodule(site.module).training)
    ]


def single_pixels(full: fx.GraphModule, low: fx.GraphModule) -> set[str]:
    """Names of the nodes whose map is one pixel only in low-mode."""
    shapes = {node.name: node_shape(node) for node in low.graph.nodes}
    return {node.name for node in full.graph.nodes if _pixels(node_shape(node)) > 1 == _pixels(shapes.get(node.name))}


def works_on_less(low: fx.GraphModule) -> bool:
    """Whether some node of a low graph computes fewer values with its parameters than in full-mode."""
    for node in low.graph.nodes:
        ours, full = node_shape(node), full_shape(node)
        smaller = isinstance(ours, Shape) and isinstance(full, Shape) and math.prod(ours) < math.prod(full)
        if smaller and (
            any(source.op == "get_attr" for source in node.all_input_nodes)
            or (node.op == "call_module" and any(True for _ in low.get_submodule(node.target).parameters()))
        ):
            return True
    return False


def _pixels(shape: Any) -> int:
    return math.prod(shape[2:]) if isinstance(shape, Shape) and len(shape) > 2 else 0


def _tensors(tree: Any) -> list[tuple[int, ...]]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Shape)]


def output_node(graph: fx.Graph) -> fx.Node:
    """The node that returns the graph's result."""
    output: fx.Node = next(node for node in reversed(graph.nodes) if node.op == "output")
    return output


def check_batch(shapes: Mapping[fx.Node, ShapeTree]) -> None:
    """No map has moved into the batch dimension, and none is empty. Raises ``ShapeError`` at the node at fault."""
    batch = image_shape(shapes)[0]
    for node, shape in shapes.items():
        full = full_shape(node)
        if node.op == "get_attr" or not (isinstance(full, Shape) and isinstance(shape, Shape) and full and shape):
            continue
        # What a loss selects by value (rows of a mask, an index) may be empty, and is not a map.
        if 0 in shape[2:] and 0 not in full:
            raise ShapeError(node, shapes, "its map would be empty")
        if full[0] == batch != shape[0] and (len(full) == 2 or _reshapes_images(node, shapes, batch)):
            raise ShapeError(
                node, shapes, f"its batch becomes {shape[0]}, because the map is reshaped to a fixed length"
            )


def _reshapes_images(node: fx.Node, shapes: Mapping[fx.Node, ShapeTree], batch: int) -> bool:
    if node.target not in _RESHAPES or not node.all_input_nodes:
        return False
    source = node.all_input_nodes[0]
    before = (shapes[source], full_shape(source))
    return all(isinstance(shape, Shape) and shape[:1] == (batch,) for shape in before)


def check_poolable(full: fx.GraphModule, model: str, pool_convs: str | Sequence[str], shrinks: bool = True) -> None:
    """Raise ``PassError`` if no convolution slides over its input, so that low-mode has nothing to pool.

    ``model``: its name, for the message. ``pool_convs``: as in ``pool_weights``; convolutions that are named one by one
    are taken as they are. ``shrinks``: whether low-mode's images are smaller.
    """
    if not isinstance(pool_convs, str):
        return
    sites = conv_sites(full)
    least = 1 if pool_convs == "all" else None
    if sliding_convs(full, least):
        return
    size = "one tap" if least else "its stride"
    found = (
        f"none of its {len(sites)} convolutions has a kernel larger than {size}" if sites else "it has no convolution"
    )
    if len(sites) == 1:
        found = f"the kernel of its only convolution is not larger than {size}"
    instead = set_option("kernel_ratio", 1, "to shrink only the images")
    if not shrinks:
        text = f"give {setting('kernel_ratio', 1)} instead of {setting('downsample_input', False)}"
        instead = Way(text, {"kernel_ratio": 1, "downsample_input": True})
    if sites:  # a size that the model fixes besides is refused with what to do about it
        instead = Way(instead.text)
    raise PassError(f"{model} has nothing to pool: {found}", Way("use a convolutional network"), instead)
