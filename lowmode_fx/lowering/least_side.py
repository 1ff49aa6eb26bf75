"""``min_side``: limit the ratio of the images so that every feature map keeps a smallest side."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from torch import fx

from lowmode_fx.lowering.config import LowModeConfig
from passes.errors import OptionError
from passes.match import conv_sites
from passes.ratios import largest_ratio_within, ratio_terms, ratio_text, side_ratios
from passes.shapes import Shape, node_shape
from passes.spelling import setting


def with_least_side(config: LowModeConfig, full: fx.GraphModule) -> tuple[LowModeConfig, str]:
    """Return the configuration with the largest ratio, up to its own, that keeps maps at ``min_side`` pixels a side.

    Maps are the outputs of convolutions; those that are smaller than that in full-mode are ignored. The second result
    is a note on the change, empty if there is none. Raises ``ValueError`` if images would stay as they are.
    """
    if config.min_side == 1 or not config.downsample_input:
        return config, ""
    maps = [(site.name, shape[2:]) for site in conv_sites(full) if isinstance(shape := node_shape(site.node), Shape)]
    dims = max((len(sides) for _, sides in maps), default=0)
    ratios: list[Fraction] = []
    limits: list[tuple[int, str]] = []
    for dim, given in enumerate(side_ratios(config.ratio, dims) if dims else ()):
        asked = Fraction(*ratio_terms(given))
        sizes = [(sides[dim], name) for name, sides in maps if len(sides) == dims]
        short = [each for each in sizes if config.min_side <= each[0] < asked * config.min_side]
        limits += short
        ratios.append(largest_ratio_within(Fraction(min(short)[0], config.min_side)) if short else asked)
    if not limits:
        return config, ""
    least, name = min(limits)
    told = f"the map at {name} has {least} pixels a side in full-mode"
    if all(ratio == 1 for ratio in ratios):
        raise OptionError("min_side", config.min_side, f"leaves images as they are: {told}", "give a smaller value")
    fitted = replace(config, ratio=ratios[0] if len(set(ratios)) == 1 else tuple(ratios))
    before, after = ratio_text(config.ratio), ratio_text(fitted.ratio)
    return fitted, f"{setting('min_side', config.min_side)} limits the ratio to {after} instead of {before}: {told}"
