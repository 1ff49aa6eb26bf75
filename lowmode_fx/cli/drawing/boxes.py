"""Graphs to boxes: what a node is called, and which kernel it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch.nn.functional as F
from torch import fx

from lowmode_fx.capture.inputs import ModelInputs
from passes.isolate_batchnorm import isolated_norm
from passes.match import ConvSite, conv_sites, max_pool_sites, module_path
from passes.shapes import node_shape
from passes.wording import sides

Kind = Literal["image", "input", "conv", "call", "slim", "added", "ghost", "gap"]
_TITLES = {
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "batch_norm"), "batch norm"),
    **dict.fromkeys(("LayerNorm", "layer_norm"), "layer norm"),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), "global average pool"),
    **dict.fromkeys(("ReLU", "relu"), "ReLU"),
    **{
        "Identity": "identity",
        "Linear": "linear",
        "cat": "concat",
        "mul": "multiply",
        "interpolate": "resize",
        "Flatten": "flatten",
    },
}


@dataclass(frozen=True)
class Kernel:
    """A convolution's kernel ``(F, C, *K)``: the parameter, and what low-mode makes of it where it is pooled."""

    shape: tuple[int, ...]
    pooled: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Box:
    """One node in one mode; ``sources`` names the boxes that it reads."""

    name: str
    title: str
    path: str = ""
    shape: str = ""
    sources: tuple[str, ...] = ()
    kind: Kind = "call"
    kernel: Kernel | None = None


@dataclass(frozen=True)
class Row:
    """The same node in both modes; ``None`` where a mode has none."""

    full: Box | None
    low: Box | None


@dataclass(frozen=True)
class Link:
    """An arrow from row to row: lane 0 is straight down, the others pass beside the boxes in between."""

    source: int
    target: int
    lane: int = 0


def column(graph_module: fx.GraphModule, inputs: ModelInputs, known: AbstractSet[str]) -> dict[str, Box]:
    """A box for every input and call, by node name; a kernel is pooled whose node is not ``known`` to full-mode.

    inputs: the call that the graph takes, whose batch size the shapes leave out.
    """
    convs = {site.node: site for site in conv_sites(graph_module)}
    pools = {site.node: site for site in max_pool_sites(graph_module)}
    paths, weights = node_paths(graph_module), {site.weight for site in convs.values()}
    pooled = {node for node in weights if node.op == "call_function" and node.name not in known}
    leaves, batch = iter(inputs.leaves), inputs.image.shape[0]
    boxes = {}
    for node in graph_module.graph.nodes:
        if node.op in ("get_attr", "output") or node in pooled:
            continue
        sources = tuple(dict.fromkeys(_sources(node, pooled)))
        path = paths.get(node.name, "")
        box = Box(node.name, _title(graph_module, node), path, _sides(node_shape(node), batch), sources)
        if node.op == "placeholder":
            box = replace(box, kind="image" if next(leaves).is_image else "input")
        elif site := convs.get(node):
            small = site.weight_shape if site.weight in pooled else None
            kernel = Kernel(node_shape(site.weight.all_input_nodes[0]) if small else site.weight_shape, small)
            box = replace(box, title=_conv_title(site), kind="conv", kernel=kernel)
        elif pool := pools.get(node):
            box = replace(box, title=f"max pool {_window(pool.kernel, pool.stride)}")
        elif box.title == "identity":
            box = replace(box, kind="slim")
        boxes[node.name] = box
    return boxes


def node_paths(graph_module: fx.GraphModule) -> dict[str, str]:
    """Path of the module that each call belongs to, by node name; a convolution's is its weight's."""
    convs = {site.node: site.name for site in conv_sites(graph_module)}
    return {
        node.name: convs.get(node) or (str(node.target) if node.op == "call_module" else module_path(node) or "")
        for node in graph_module.graph.nodes
        if node.op.startswith("call_")
    }


def _sources(node: fx.Node, pooled: AbstractSet[fx.Node]) -> Iterator[str]:
    for source in node.all_input_nodes:
        if source in pooled:
            yield from _sources(source, pooled)
        elif source.op != "get_attr":
            yield source.name


def _title(graph_module: fx.GraphModule, node: fx.Node) -> str:
    target: Any = node.target
    if node.op == "call_module" or target is isolated_norm:
        path = target if node.op == "call_module" else node.all_input_nodes[0].target
        name = type(graph_module.get_submodule(str(path))).__name__
        return _TITLES.get(name, name) + ", isolated" * (target is isolated_norm)
    amounts = node.args[1] if target is F.pad and len(node.args) > 1 else None
    if isinstance(amounts, list | tuple) and all(isinstance(amount, int) and amount <= 0 for amount in amounts):
        return f"crop {', '.join(str(-amount) for amount in amounts)}"
    packet = getattr(target, "overloadpacket", target)
    name = (target if isinstance(target, str) else getattr(packet, "__name__", str(packet))).strip("_")
    return _TITLES.get(name, name)


def _conv_title(site: ConvSite) -> str:
    title = f"{'transposed ' * site.transposed}conv {_window(site.kernel, site.stride)}"
    if set(site.dilation) != {1}:
        title += f", dilation {_each(site.dilation)}"
    if site.group_count > 1:
        title += ", depthwise" if site.depthwise else f", {site.group_count} groups"
    return title


def _window(kernel: Sequence[int], stride: Sequence[int]) -> str:
    return sides(kernel) + ("" if set(stride) == {1} else f", stride {_each(stride)}")


def _each(sizes: Sequence[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else sides(sizes)


def _sides(shape: Any, batch: int) -> str:
    """``(N, C, H, W)`` as C×H×W, other shapes whole; nothing for what is no single tensor."""
    if not isinstance(shape, tuple) or not all(type(size) is int for size in shape):
        return ""
    return sides(shape[1:] if shape[:1] == (batch,) else shape)
