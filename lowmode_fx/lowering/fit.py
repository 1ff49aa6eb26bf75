"""Does the low graph fit the model? Shapes worked out, heads resized where asked for, refusals with a way out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from lowmode_fx.lowering.config import LowModeConfig
from passes import Change, PassError, PassReport, ShapeError, propagate_shapes
from passes.calls import CONVS, aten
from passes.match import conv_sites, module_path
from passes.pool_weights import is_custom_transform
from passes.resize_head import drop_needless, find_flatten, find_map, resize_head
from passes.shapes import Shape, ShapeTree

#: More than any model needs: a stage of a hybrid network takes two or three.
_MOST_RESIZES = 24
_RESHAPES = ("view", "reshape", torch.reshape, aten.view.default, aten.reshape.default)


class NoEffectWarning(UserWarning):
    """Low-mode differs from full-mode in the resolution only."""


def check_poolable(model: nn.Module, full: fx.GraphModule, config: LowModeConfig) -> None:
    """Raises ``PassError`` where no convolution slides over its input: there is nothing that low-mode could pool."""
    if config.effective_kernel_ratio == 1 or not isinstance(config.pool_convs, str):
        return  # kernels are kept, or named one by one
    sites = conv_sites(full)
    least = 1 if config.pool_convs == "all" else None
    if any(k > (least or s) for site in sites for k, s in zip(site.kernel, site.stride, strict=True)):
        return
    size = "one tap" if least else "its stride"
    found = (
        f"none of its {len(sites)} convolutions has a kernel larger than {size}" if sites else "it has no convolution"
    )
    raise PassError(
        f"{type(model).__name__} has nothing to pool: {found}; low-mode is for convolutional networks "
        "(kernel_ratio=1 shrinks the images alone)"
    )


def fit(
    low: fx.GraphModule,
    full: fx.GraphModule,
    low_example: Tensor,
    reports: Sequence[PassReport],
    full_shapes: Mapping[str, ShapeTree],
    config: LowModeConfig,
) -> tuple[dict[fx.Node, ShapeTree], tuple[Change, ...]]:
    """Shapes of the low graph, with heads resized where that was asked for. Raises ``PassError`` where it can't run."""
    resized: list[fx.Node] = []
    while True:
        try:
            shapes = propagate_shapes(low, low_example)
            check_batch(shapes, full_shapes)
            return shapes, drop_needless(low, resized, shapes) if resized else ()
        except ShapeError as error:
            if is_custom_transform(error.node):
                raise PassError(_transform_refusal(error, config)) from error
            changed = [change.site for report in reports[:2] for change in report.changes]
            joined = error.node.target not in CONVS and sum(isinstance(shape, Shape) for shape in error.inputs) > 1
            if joined and changed and find_flatten(error, full_shapes) is None:
                raise PassError(
                    f"branches no longer fit at {_place(error.node)}, {_shapes(error.inputs)}, once "
                    f"{', '.join(changed)} changed; keep it (drop_maxpools, strides), or change every branch alike"
                ) from error
            if not config.adapt_head or len(resized) > _MOST_RESIZES:
                raise PassError(_refusal(error, full, low_example, full_shapes)) from error
            resized.append(resize_head(low, error, full_shapes))


def check_batch(shapes: Mapping[fx.Node, ShapeTree], full_shapes: Mapping[str, ShapeTree]) -> None:
    """No map has leaked into the batch, and none is empty. Raises ``ShapeError`` at the node that let it."""
    batch = next(shape[0] for node, shape in shapes.items() if node.op == "placeholder")
    for node, shape in shapes.items():
        full = full_shapes.get(node.name)
        if node.op == "get_attr" or not (isinstance(full, Shape) and isinstance(shape, Shape) and full and shape):
            continue
        if 0 in shape and 0 not in full:
            raise ShapeError(node, shapes, "nothing is left of its map")
        if full[0] == batch != shape[0] and (len(full) == 2 or _reshapes_images(node, shapes, full_shapes, batch)):
            raise ShapeError(node, shapes, f"its batch becomes {shape[0]}, for the map is given a fixed length")


def _reshapes_images(
    node: fx.Node, shapes: Mapping[fx.Node, ShapeTree], full_shapes: Mapping[str, ShapeTree], batch: int
) -> bool:
    if node.target not in _RESHAPES or not node.all_input_nodes:
        return False
    source = node.all_input_nodes[0]
    before = (shapes[source], full_shapes.get(source.name))
    return all(isinstance(shape, Shape) and shape[:1] == (batch,) for shape in before)


def _refusal(error: ShapeError, full: fx.GraphModule, low_example: Tensor, full_shapes: Mapping[str, ShapeTree]) -> str:
    flatten = find_flatten(error, full_shapes)
    if flatten is not None:
        wanted = "×".join(map(str, full_shapes[flatten.all_input_nodes[0].name][1:]))
        return (
            f"{_place(error.node)} takes a flattened map of fixed size ({wanted} in full-mode), but low-mode gives "
            f"{_shapes(error.inputs)}; set adapt_head=True to resize the map to its full-mode size there"
        )
    cause = re.sub(r"\s*\(?Proxy\([^)]*\)(\*Proxy\([^)]*\))?\)?", "", error.cause)
    try:
        propagate_shapes(full, low_example)
        what = "low-mode does not fit the model"
    except ShapeError:
        what = f"the model itself can't take {'×'.join(map(str, low_example.shape[2:]))} inputs"
    source = find_map(error, full_shapes)
    resize = ""
    if source is not None:
        size = "×".join(map(str, full_shapes[source.name][2:]))
        resize = f", set adapt_head=True to resize the map behind {_place(source)} to its full-mode {size}"
    return (
        f"{what}: at {_place(error.node)}, given {_shapes(error.inputs)}: {cause}; try an input size that halves more "
        f"often{resize}, or pool kernels alone with downsample_input=False"
    )


def _transform_refusal(error: ShapeError, config: LowModeConfig) -> str:
    user = next(iter(error.node.users), error.node)
    place = module_path(user) or user.name
    if error.cause.startswith("kernel_transform "):
        return f"{place}: {error.cause}"
    name = getattr(config.kernel_transform, "__name__", repr(config.kernel_transform))
    expected = "it must be a function (kernel (F, C, *K), K') → kernel"
    return f"{place}: kernel_transform {name!r} failed: {error.cause}; {expected}"


def _place(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    path = module_path(node)
    return f"{node.name} in {path}" if path else node.name


def _shapes(shapes: Sequence[ShapeTree]) -> str:
    shown = [shape for shape in shapes if isinstance(shape, Shape)]
    return " and ".join("×".join(map(str, shape)) for shape in shown) or "no tensor"


def smaller_outputs(
    full_shapes: Mapping[str, ShapeTree],
    low: fx.GraphModule,
    low_shapes: Mapping[fx.Node, ShapeTree],
    config: LowModeConfig,
) -> tuple[str, ...]:
    """A note where low-mode returns smaller maps than full-mode, as a segmenter's does."""
    output = next(node for node in low.graph.nodes if node.op == "output")
    ours, theirs = full_shapes.get(output.name), low_shapes.get(output)
    maps = [shape for shape in (ours, theirs) if isinstance(shape, Shape) and len(shape) > 2]
    if config.restore_output or len(maps) < 2 or maps[0] == maps[1]:
        return ()
    full, small = ("×".join(map(str, shape[2:])) for shape in maps)
    return (f"low-mode returns maps of {small} where full-mode returns {full}; restore_output=True resizes them",)


def notes(
    sides: Sequence[int], low_sides: Sequence[int], config: LowModeConfig, reports: Sequence[PassReport]
) -> tuple[str, ...]:
    """What a reader of the report should know; warns where low-mode is the resolution alone."""
    notes = []
    if config.downsample_input and any(side % config.ratio for side in sides):
        full, low = ("×".join(map(str, values)) for values in (sides, low_sides))
        notes.append(f"{full} is not divisible by {config.ratio}: low-mode images are {low} (rounded up)")
    by_name = {report.name: report for report in reports}
    rewritten = any(by_name[name].changes for name in ("drop_maxpools", "set_strides", "pool_weights"))
    if not rewritten and not config.downsample_input:
        notes.append("low-mode does what full-mode does: images stay whole, and no kernel is pooled")
        warnings.warn(f"{notes[-1]}; see pool_convs", NoEffectWarning, stacklevel=3)
    elif not rewritten and config.effective_kernel_ratio > 1:
        reasons = sorted({skip.reason for skip in by_name["pool_weights"].skips})
        notes.append(f"no kernel is pooled, only the resolution drops ({'; '.join(reasons)})")
        warnings.warn(f"{notes[-1]}; see pool_convs", NoEffectWarning, stacklevel=3)
    if config.drop_maxpools in ("stem", "all") and not by_name["drop_maxpools"].changes:
        notes.append(f"drop_maxpools={config.drop_maxpools!r} found no max pool")
    return tuple(notes)
