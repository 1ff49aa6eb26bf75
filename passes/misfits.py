"""Error messages for a low mode that does not fit a model: which place, its input, and what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from passes.base import PassContext
from passes.calls import CONVS
from passes.errors import PassError, Way, set_option, whole_images
from passes.find_maps import find_flatten, find_map, image_shape, is_map
from passes.match import module_path
from passes.ratios import PlainRatio, nearest_ratio, plain_ratio
from passes.shapes import Shape, ShapeError, ShapeTree, full_shape, node_shape, propagate_shapes
from passes.spelling import setting
from passes.wording import sides

#: Multiples of sides to try, for models that halve their maps often.
_MULTIPLES = (2, 4, 8, 16, 32, 64)
#: A side is short if the image's other side is this many times longer.
_SHORT = 4
_POOL = "nn.AdaptiveAvgPool2d"
_OTHER_SIZES = "make the model take images of other sizes (some of timm's by dynamic_img_size=True)"


def misfit(error: ShapeError, context: PassContext) -> PassError:
    """The error for a graph that can't run on low-mode's images."""
    flatten = find_flatten(error)
    if flatten is not None:
        wanted = sides(full_shape(flatten.all_input_nodes[0])[1:])
        return PassError(
            f"{place(error.node)} needs a flattened map of fixed size ({wanted} in full-mode), but low-mode gives "
            f"{_shapes(error.inputs)}",
            set_option("adapt_head", True, "to resize the map to its full-mode size there"),
            *(whole_images(), Way(f"make the model take images of other sizes, as by {_POOL} before the flatten")),
        )
    cause = re.sub(r"\s*\(?Proxy\([^)]*\)(\*Proxy\([^)]*\))?\)?", "", error.cause).rstrip(".")
    way_out = Way("use an input size that can be halved more often")
    if _takes(context.full, context.inputs):
        what = "low-mode does not fit the model"
    else:
        what = f"the model itself can't take {sides(image_shape(error.shapes)[2:])} inputs"
        if context.any_size:
            is_fixed = error.node.target is torch._assert or _meets_a_table(error.node)
            way_out = _other_sides(context) or (Way(_OTHER_SIZES) if is_fixed else way_out)
    ways = [way_out]
    source = find_map(error)
    if source is not None:
        size = sides(full_shape(source)[2:])
        ways.append(set_option("adapt_head", True, f"to resize the map behind {place(source)} to its full-mode {size}"))
    has_tensors = any(isinstance(shape, Shape) for shape in error.inputs)
    given = f", given {_shapes(error.inputs)}" if has_tensors else ""
    return PassError(f"{what}: at {place(error.node)}{given}: {cause}", *ways, whole_images())


def _meets_a_table(node: fx.Node) -> bool:
    """Whether a tensor that no input leads to (positions, an attention bias) is one of several that the node reads."""
    sources = [source for source in node.all_input_nodes if isinstance(full_shape(source), Shape)]
    return len(sources) > 1 and not all(map(_depends_on_inputs, sources))


def _depends_on_inputs(node: fx.Node) -> bool:
    pending, seen = [node], {node}
    while pending:
        current = pending.pop()
        if current.op == "placeholder":
            return True
        sources = [source for source in current.all_input_nodes if source not in seen]
        pending += sources
        seen.update(sources)
    return False


def _takes(graph_module: fx.GraphModule, inputs: Sequence[Tensor]) -> bool:
    try:
        propagate_shapes(graph_module, *inputs)
    except ShapeError:
        return False
    return True


def _other_sides(context: PassContext) -> Way | None:
    """Sides of low-mode's images that the model would take, and how to set them; ``None`` if none was found."""
    placeholders = [node for node in context.full.graph.nodes if node.op == "placeholder"]
    pairs = list(zip(placeholders, context.inputs, strict=True))
    ratio = _one_sided_ratio(context.full, pairs)
    if ratio:
        return set_option("ratio", ratio, "to keep its short side")
    multiple, nearest = _nearest_sides(context.full, pairs)
    if nearest:
        sizes = f"the nearest sizes that it takes are {' and '.join(nearest)}"
        return Way(f"{sizes}: set {setting('size_multiple', multiple)}", {"size_multiple": multiple})
    return None


def _nearest_sides(graph_module: fx.GraphModule, pairs: Sequence[tuple[fx.Node, Tensor]]) -> tuple[int, list[str]]:
    """The smallest multiple for which the model takes low-mode's rounded sides, and these sides."""
    shrunk = [node for node, value in pairs if _is_shrunk(node, value)]
    for multiple in _MULTIPLES:
        found = []
        for rounded in (math.floor, math.ceil):
            inputs = [_rounded(value, multiple, rounded) if node in shrunk else value for node, value in pairs]
            images = [(node, value) for (node, _), value in zip(pairs, inputs, strict=True) if node in shrunk]
            smaller = all(tuple(value.shape[2:]) < node_shape(node)[2:] for node, value in images)
            if smaller and _takes(graph_module, inputs):
                found.append(sides(images[0][1].shape[2:]))
        if found:
            return multiple, list(dict.fromkeys(found))
    return 1, []


def _one_sided_ratio(graph_module: fx.GraphModule, pairs: Sequence[tuple[fx.Node, Tensor]]) -> PlainRatio | None:
    """A ratio per side, for images with one much shorter side (bands, a line of text) that fits at full length."""
    images = [(node_shape(node)[2:], tuple(value.shape[2:])) for node, value in pairs if _is_shrunk(node, value)]
    if not images or max(images[0][0]) < _SHORT * min(images[0][0]):
        return None
    full, low = images[0]
    short = full.index(min(full))
    inputs = [
        value.new_empty(_with_side(value.shape, short, node_shape(node))) if _is_shrunk(node, value) else value
        for node, value in pairs
    ]
    if low[short] == full[short] or not _takes(graph_module, inputs):
        return None
    low_terms = [size if side == short else low[side] for side, size in enumerate(full)]
    return plain_ratio([nearest_ratio(*terms) for terms in zip(full, low_terms, strict=True)])


def _is_shrunk(node: fx.Node, value: Tensor) -> bool:
    return is_map(node_shape(node)) and node_shape(node) != Shape(value.shape)


def _with_side(shape: Sequence[int], side: int, full: Sequence[int]) -> tuple[int, ...]:
    return (*shape[: 2 + side], full[2 + side], *shape[3 + side :])


def _rounded(value: Tensor, multiple: int, rounded: Callable[[float], int]) -> Tensor:
    sizes = [max(1, rounded(size / multiple)) * multiple for size in value.shape[2:]]
    return value.new_empty((*value.shape[:2], *sizes))


def unequal_branches(error: ShapeError, context: PassContext) -> PassError | None:
    """The error for branches of which an earlier pass changed only some; ``None`` if that is not the cause."""
    changed = [change.site for name in ("drop_maxpools", "set_strides") for change in context.report(name).changes]
    joined = error.node.target not in CONVS and sum(isinstance(shape, Shape) for shape in error.inputs) > 1
    if not (joined and changed and find_flatten(error) is None):
        return None
    return PassError(
        f"branches don't fit at {place(error.node)}: {_shapes(error.inputs)} after {', '.join(changed)} changed; "
        "keep these sites (drop_maxpools, strides), or change every branch alike"
    )


def failed_transform(error: ShapeError) -> PassError:
    """The error for a custom kernel transform that fails."""
    user = next(iter(error.node.users), error.node)
    where = module_path(user) or user.name
    if error.cause.startswith("kernel_transform "):
        return PassError(f"{where}: {error.cause}")
    name = getattr(error.node.target, "users_name", "")
    expected = "give a function (kernel (F, C, *K), K') → kernel"
    return PassError(f"{where}: kernel_transform {name!r} failed: {error.cause}; {expected}")


def place(node: fx.Node) -> str:
    """The node in words: the module that it calls or belongs to."""
    if node.op == "call_module":
        return str(node.target)
    path = module_path(node)
    return f"{node.name} in {path}" if path else node.name


def _shapes(shapes: Sequence[ShapeTree]) -> str:
    shown = [shape for shape in shapes if isinstance(shape, Shape)]
    return " and ".join(map(sides, shown)) or "no tensor"
