"""Notes of a low mode's report, beyond the reports of its passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from torch import fx

from lowmode_fx.lowering.config import LowModeConfig
from lowmode_fx.lowering.downsampling import downsampled_sides
from passes import PassContext
from passes.checks import output_node, single_pixels
from passes.match import conv_sites
from passes.pooling_rule import RESAMPLING
from passes.ratios import divides, ratio_text
from passes.shapes import Shape, node_shape
from passes.spelling import setting
from passes.wording import sides

#: Options of ``LowModeConfig`` that say how kernels are pooled, and how images are made smaller.
_OF_KERNELS = ("rounding", "kernel_transform", "gain", "pool_convs", "keep_convs")
_OF_IMAGES = ("input_method", "size_multiple", "min_side")


def no_effect(config: LowModeConfig, context: PassContext, low_sides: Sequence[int], full_sides: Sequence[int]) -> str:
    """The reason why low-mode has no effect beyond the resolution, or none at all; empty if it has."""
    if any(context.report(name).changes for name in ("drop_maxpools", "set_strides", "pool_weights")):
        return ""
    if not config.downsample_input:
        return "low-mode is the same as full-mode: images stay at full size, and no kernel is pooled"
    if tuple(low_sides) == tuple(full_sides):
        by = f"{sides(full_sides)} by {ratio_text(config.ratio)} is rounded to {sides(low_sides)}"
        return f"low-mode saves nothing: {by}, and no kernel is pooled"
    if not config.pools_kernels:
        return ""
    reasons = sorted({skip.reason for skip in context.report("pool_weights").skips})
    return f"no kernel is pooled, only the resolution is lower ({'; '.join(reasons)})"


def notes(
    full_sides: Sequence[int],
    low_sides: Sequence[int],
    config: LowModeConfig,
    context: PassContext,
    low: fx.GraphModule,
    effect: str,
    lone: Sequence[str],
) -> tuple[str, ...]:
    """Notes on sides that the ratio does not divide, options without effect, and outputs or maps that are too small.

    ``effect``: the result of ``no_effect``. ``lone``: norms whose map has one pixel per image.
    """
    found = []
    found += [_rounding(full_sides, low_sides, config)] if config.downsample_input else []
    found += [effect, *_idle_options(config)]
    if config.drop_maxpools in ("stem", "all") and not context.report("drop_maxpools").changes:
        found.append(f"{setting('drop_maxpools', config.drop_maxpools)} found no max pool")
    ours, theirs = (node_shape(output_node(each.graph)) for each in (context.full, low))
    maps = [shape for shape in (ours, theirs) if isinstance(shape, Shape) and len(shape) > 2]
    if not config.restore_output and len(maps) == 2 and maps[0] != maps[1]:
        full, small = (sides(shape[2:]) for shape in maps)
        found.append(
            f"low-mode returns maps of {small} where full-mode returns {full}; "
            f"set {setting('restore_output', True)} to resize them"
        )
    if config.restore_output and config.downsample_input and not context.report("restore_output").changes:
        found.append(f"{setting('restore_output', True)} found no map to resize")
    found.append(_single_pixels(context.full, low))
    if lone:
        found.append(
            f"{lone[0]} has a 1×1 map in low-mode: a batch of one image has no statistics and runs in full-mode"
        )
    return tuple(filter(None, found))


def _idle_options(config: LowModeConfig) -> Iterator[str]:
    """A note for each option that is given and that another one leaves without effect."""
    defaults = {entry.name: entry.default for entry in fields(config)}
    idle: dict[str, str] = {}
    if not config.pools_kernels:
        idle |= dict.fromkeys(_OF_KERNELS, f"{setting('kernel_ratio')} is 1, which keeps every kernel")
    elif config.kernel_transform in RESAMPLING and config.gain == "norm":
        idle["gain"] = f"{setting('kernel_transform', config.kernel_transform)} always preserves the sum"
    if not config.downsample_input:
        idle |= dict.fromkeys(_OF_IMAGES, "images stay at full size")
        if config.kernel_ratio is not None:
            idle["ratio"] = f"images stay at full size, and {setting('kernel_ratio')} is given"
    for name, why in idle.items():
        if getattr(config, name) != defaults[name]:
            yield f"{setting(name)} does nothing here: {why}"


def _single_pixels(full: fx.GraphModule, low: fx.GraphModule) -> str:
    """A note on the first convolution whose map shrinks to a single pixel, which no ladder has gained from yet."""
    names = single_pixels(full, low)
    for site in conv_sites(full):
        shape = node_shape(site.node)
        if site.node.name in names and isinstance(shape, Shape):
            before, after = sides(shape[2:]), sides([1] * len(shape[2:]))
            return (
                f"the {before} map at {site.name} becomes {after}: small networks that trained so ended below a "
                "shorter run in full-mode; give larger images or a smaller ratio"
            )
    return ""


def _rounding(full_sides: Sequence[int], low_sides: Sequence[int], config: LowModeConfig) -> str:
    full, low, ratio = sides(full_sides), sides(low_sides), ratio_text(config.ratio)
    unrounded = sides(downsampled_sides(full_sides, config.ratio))
    if low != unrounded:
        rounded = f"rounded from {unrounded} to multiples of {config.size_multiple}"
        return f"{full} by {ratio}: low-mode images are {low} ({rounded})"
    if divides(config.ratio, full_sides):
        return ""
    return f"{full} is not divisible by {ratio}: low-mode images are {low} (rounded up)"
